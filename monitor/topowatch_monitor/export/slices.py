"""Takes requests for loss slices: the one thing over HTTP that asks something of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from topowatch_monitor.export.fleet import AmbiguousRunError, RunNotFoundError

if TYPE_CHECKING:
    from topowatch_monitor.export.fleet import Fleet, FleetRun

SIDES = range(3, 66, 2)


class RefusedError(ValueError):
    """A request that cannot be passed on: the HTTP status, and why in words."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def wanted(body: Any) -> int:
    """Return the points along a side that a request's JSON asks for; raises RefusedError."""
    side = body.get("side") if isinstance(body, dict) else None
    if type(side) is not int or side not in SIDES:
        why = f'send JSON such as {{"side": 17}}: an odd number of points from {SIDES[0]} to {SIDES[-1]}'
        raise RefusedError(400, why)
    return side


def run_at_work(fleet: Fleet, name: str, now: float, group: str | None) -> FleetRun:
    """Return a run of which something can be asked; raises RefusedError."""
    try:
        run = fleet.run(name, now, group)
    except AmbiguousRunError as error:
        raise RefusedError(409, f"{error} with ?{error.asked}=") from None
    except RunNotFoundError as error:
        raise RefusedError(404, f"{error}; /api/v1/runs lists those that this daemon knows") from None
    if run["state"] != "live":
        raise RefusedError(409, f"run {name!r} is {run['state']}: only a job at work can take a slice of its loss")
    return run
