"""Reading from a daemon over HTTP; whatever goes wrong ends in one sentence."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from topowatch_monitor.commands.output import CommandError

DEFAULT_URL = "http://127.0.0.1:7071"
TIMEOUT_SECONDS = 10.0


def fetch_runs(url: str, group: str | None = None) -> dict[str, Any]:
    """Return {now, runs} of the daemon; raises CommandError."""
    return _fetch(url, "/api/v1/runs", group)


def fetch_run(url: str, run: str, group: str | None = None) -> dict[str, Any]:
    """Return one run's JSON; raises CommandError with the daemon's own words if it has no such run."""
    return _fetch(url, f"/api/v1/runs/{quote(run, safe='')}", group)


def _fetch(url: str, path: str, group: str | None) -> dict[str, Any]:
    base = url.rstrip("/")
    parts = urlsplit(base)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise CommandError(f"--url {url!r} is not an address such as {DEFAULT_URL}", status=2)
    local = parts.hostname in {"localhost", "127.0.0.1", "::1"}
    try:
        answer = httpx.get(
            base + path,
            params={} if group is None else {"group": group},
            timeout=TIMEOUT_SECONDS,
            trust_env=not local,  # a proxy cannot reach this host's own loopback
        )
        content = answer.json()
    except httpx.TransportError as error:
        raise CommandError(_unreachable(base, error), status=2) from None
    except ValueError:
        raise CommandError(f"what answers at {base} is no topowatch daemon: name one with --url", status=2) from None
    if answer.status_code != httpx.codes.OK or not isinstance(content, dict):
        detail = content.get("error") if isinstance(content, dict) else None
        hint = "; name its group with --group" if answer.status_code == httpx.codes.CONFLICT else ""
        raise CommandError((detail or f"{base} answered HTTP {answer.status_code}") + hint)
    return content


def _unreachable(base: str, error: httpx.TransportError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return (
            f"the daemon at {base} did not answer within {TIMEOUT_SECONDS:g} s: see its log, or name another with --url"
        )
    return f"no daemon answers at {base}: start one with `topowatch serve`, or name another with --url"
