"""The runs, the run or the group that a request over HTTP asks about, as far as whoever asks may see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from topowatch_monitor.export.answers import RefusedError
from topowatch_monitor.export.fleet import AmbiguousGroupError, AmbiguousRunError, GroupNotFoundError, RunNotFoundError
from topowatch_monitor.export.guard import who

if TYPE_CHECKING:
    from starlette.requests import Request

    from topowatch_monitor.engine.group_view import GroupView
    from topowatch_monitor.export.fleet import Fleet, FleetRun


def seen_by(request: Request, fleet: Fleet) -> Fleet:
    """Return what there is of the tenant that is asked about, of what whoever asks may see."""
    return fleet.of(who(request).sees).of(request.query_params.get("tenant"))


def run_of(request: Request, fleet: Fleet, now: float) -> FleetRun:
    """Return the run that is asked about as of `now`; raises RefusedError."""
    try:
        return seen_by(request, fleet).run(request.path_params["run"], now, request.query_params.get("group"))
    except AmbiguousRunError as error:
        raise RefusedError(409, f"{error} with ?{error.asked}=", {f"{error.asked}s": error.names}) from None
    except RunNotFoundError as error:
        raise RefusedError(404, f"{error}; /api/v1/runs lists those that this daemon knows") from None


def group_of(request: Request, fleet: Fleet, now: float) -> tuple[GroupView, list[FleetRun]]:
    """Return the group that is asked about, and its runs, as of `now`; raises RefusedError."""
    try:
        return seen_by(request, fleet).group(request.path_params["group"], now, request.query_params.get("tenant"))
    except AmbiguousGroupError as error:
        raise RefusedError(409, f"{error} with ?tenant=", {"tenants": error.tenants}) from None
    except GroupNotFoundError as error:
        raise RefusedError(404, f"{error}; /api/v1/runs lists the groups of all runs") from None
