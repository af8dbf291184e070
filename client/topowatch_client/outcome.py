"""What became of a spool, as the job that wrote it can see it: still on its way, or put away by the forwarder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from topowatch_client.spool import META, REJECTED_LOG, read_cursor

if TYPE_CHECKING:
    from pathlib import Path


def put_away(directory: Path) -> bool:
    """Say whether everything was answered for, so that at most what the daemon refused is left here."""
    return not (directory / META).exists()


def read_outcome(directory: Path, next_seq: int) -> dict[str, Any]:
    """Return what is known of a spool's way: acked, rejected and message.

    Args:
        directory: The writer's.
        next_seq: Behind the last item that was written.
    """
    outcome = read_cursor(directory)
    if put_away(directory):  # the cursor went with the spool
        rejected = _rejected(directory)
        outcome = {"acked": max(next_seq - rejected, 0), "rejected": rejected}
    if outcome.get("rejected") and not outcome.get("message"):
        outcome["message"] = _last_reason(directory)
    return outcome


def _rejected(directory: Path) -> int:
    return len({seq for line in _lines(directory) for seq in line.get("seqs", ())})


def _last_reason(directory: Path) -> str:
    lines = _lines(directory)
    return f"refused by the daemon: {lines[-1].get('reason', '')}" if lines else ""


def _lines(directory: Path) -> list[dict[str, Any]]:
    try:
        text = (directory / REJECTED_LOG).read_text(encoding="utf-8")
        found = [json.loads(line) for line in text.splitlines()]
    except (OSError, ValueError):  # none, or being written just now
        return []
    return [line for line in found if isinstance(line, dict)]
