"""A rank whose part of the model is needed has stopped sending, or never began, while others go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMED = 8  # ranks that a reason names


@dataclass(frozen=True)
class MissingRankThresholds:
    """When a rank counts as missing. An interval is the longest that any of the ranks keeps between its samples.

    Attributes:
        intervals: that a rank has to be behind the foremost one. Ranks are at most one apart by themselves; a forwarder
            that sends batches makes it a few.
        seconds: for which it has to be silent as well. Steps may be fast, and a network that is slow for a while is not
            a rank that is gone.
        release: intervals behind at which it lets go: what was held back has arrived.
    """

    intervals: float = 8.0
    seconds: float = 60.0
    release: float = 2.0


def is_missing(
    behind: int, interval: int, silence: float | None, active: bool, thresholds: MissingRankThresholds
) -> bool:
    """Whether a rank, or one that has never been heard of, is missing.

    Args:
        behind: steps from its latest sample to the latest of any rank.
        interval: steps between samples of the rank that samples most rarely.
        silence: seconds, by the daemon's clock when it stored, from its latest sample to the latest of any; None where
            that is unknown.
        active: whether it is missing so far.
        thresholds: when that counts.
    """
    if active:
        return behind > thresholds.release * interval
    return behind > thresholds.intervals * interval and (silence or 0.0) > thresholds.seconds


def detect(contributing: int, heard: int, missing: Mapping[int, int], unheard: int, start: int) -> str | None:
    """Say which ranks are missing, and since when; None if none is.

    Args:
        contributing: ranks whose parts add up to the model.
        heard: those of them that have been heard of.
        missing: latest step of those that have stopped sending, by rank.
        unheard: those that have never been heard of, as far as they count as missing.
        start: first step of the job, or the one that it went back to.
    """
    told = []
    if missing:
        named = [f"rank {rank} since step {step}" for rank, step in sorted(missing.items())[:NAMED]]
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        told.append(f"nothing has come from {', '.join(named)}{more}")
    if unheard:
        told.append(f"only {heard} of {contributing} ranks have been heard of since the job began at step {start}")
    if not told:
        return None
    return f"{', and '.join(told)}, while others go on; steps that lack a part are not on the path"
