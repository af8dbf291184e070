"""Takes requests for loss slices: the one thing over HTTP that asks something of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from topowatch_monitor.export.answers import RefusedError

if TYPE_CHECKING:
    from topowatch_monitor.export.fleet import FleetRun

SIDES = range(3, 66, 2)


def wanted(body: Any) -> int:
    """Return the points along a side that a request's JSON asks for; raises RefusedError."""
    side = body.get("side") if isinstance(body, dict) else None
    if type(side) is not int or side not in SIDES:
        why = f'send JSON such as {{"side": 17}}: an odd number of points from {SIDES[0]} to {SIDES[-1]}'
        raise RefusedError(400, why)
    return side


def check_at_work(run: FleetRun) -> None:
    """Refuse a run of which nothing can be asked; raises RefusedError."""
    if run["state"] != "live":
        why = f"run {run['run']!r} is {run['state']}: only a job at work can take a slice of its loss"
        raise RefusedError(409, why)
