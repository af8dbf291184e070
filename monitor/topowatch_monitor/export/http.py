"""The daemon's HTTP face: metrics, health, JSON and the page."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from topowatch_monitor.engine.look import Subject
from topowatch_monitor.export import exposition, page
from topowatch_monitor.export.answers import RefusedError, json_response
from topowatch_monitor.export.asked import group_of, run_of, seen_by
from topowatch_monitor.export.closeups import NotDrawnError
from topowatch_monitor.export.collector import FleetCollector
from topowatch_monitor.export.forecasts import fleet_answer, forecast_answer
from topowatch_monitor.export.guard import Guard, is_admin, peer_of, who
from topowatch_monitor.export.slices import check_at_work, wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from topowatch_monitor.access.audit import Audit
    from topowatch_monitor.access.gate import Gate
    from topowatch_monitor.engine.group_view import GroupView
    from topowatch_monitor.export.closeups import Viewer
    from topowatch_monitor.export.fleet import DaemonStats, Fleet, FleetRun

MOST_BODY_BYTES = 1024
LONG = {"events", "landscape"}  # of a run, told where one is asked for, not in the list of all
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Content-Security-Policy": page.CONTENT_SECURITY_POLICY,
}


def create_app(
    fleet: Fleet,
    *,
    stats: Callable[[], DaemonStats],
    not_ready: Callable[[], Sequence[str]],
    late: Callable[[], list[str]] = list,
    now: Callable[[], float] = time.time,
    version: str = "",
    ask: Callable[[FleetRun, int], str] | None = None,
    viewer: Viewer | None = None,
    gate: Gate | None = None,
    audit: Audit | None = None,
    tenant_series: int | None = None,
    local: bool = False,
) -> Starlette:
    """Build the ASGI application.

    Args:
        fleet: the runs.
        stats: the daemon's figures now; called at each scrape, from a thread of the server's pool.
        not_ready: why the daemon is not ready, one sentence a reason; empty when it is.
        late: why results come late though it is ready, as `not_ready`.
        now: Unix time.
        version: of the daemon.
        ask: passes a wish for a loss slice on to a run's job, with the points along a side, and returns its id; called
            in the event loop. None where there is no way to jobs.
        viewer: draws maps of groups and shapes of runs. None where there is no engine to.
        gate: tells who asks, and so whose runs they see. None: everybody may see all.
        audit: where it is written down who was not let in, and who asked for a slice.
        local: see `Guard`.
        tenant_series: how many series one tenant's runs and groups may have in /metrics; None: any number.
    """
    collector = FleetCollector(fleet, stats, now, version, tenant_series)

    def metrics(request: Request) -> Response:
        families = collector.collect(who(request).sees)
        return Response(exposition.render(families), headers={"Content-Type": exposition.CONTENT_TYPE})

    async def ready(request: Request) -> Response:
        reasons = not_ready()
        told = [*reasons, *late()] if is_admin(request, gate) else []  # they name files, disks and machines
        words = "topowatch is not ready\n" if reasons else "topowatch is ready\n"
        return PlainTextResponse(words + "".join(f"- {reason}\n" for reason in told), 503 if reasons else 200)

    def runs(request: Request) -> Response:
        moment, group, seen = now(), request.query_params.get("group"), seen_by(request, fleet)
        groups = [summary_of(view) for view in seen.groups(group).values()]
        listed = [{name: value for name, value in run.items() if name not in LONG} for run in seen.runs(moment, group)]
        why = late() if is_admin(request, gate) else ["results come late"] * bool(late())
        return json_response({"now": moment, "runs": listed, "groups": groups, "late": why})

    def run(request: Request) -> Response:
        return json_response(run_of(request, fleet, now()))

    async def shape(request: Request) -> Response:
        found = await run_in_threadpool(run_of, request, fleet, now())
        return await close_up(viewer, Subject(found["tenant"], found["group"], found["run"]))

    async def group_map(request: Request) -> Response:
        view, _ = await run_in_threadpool(group_of, request, fleet, now())
        return await close_up(viewer, Subject(view["tenant"], view["group"]))

    async def slice_of(request: Request) -> Response:
        # No form of another site can send this type, so no page that a browser shows can ask in its owner's name.
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise RefusedError(415, "send JSON, as Content-Type: application/json")
        run = run_of(request, fleet, now())
        check_at_work(run)
        try:
            side = wanted(json.loads(await body_of(request)))
        except ValueError:
            raise RefusedError(400, "the body is no JSON") from None
        if ask is None:
            raise RefusedError(503, "this daemon has no way to jobs")
        if audit is not None:
            facts = {"peer": peer_of(request.scope), "token": who(request).token, "tenant": run["tenant"]}
            audit.write("slice_asked", **facts, run=run["run"], group=run["group"])
        return json_response({"request": ask(run, side), "side": side}, 202)

    def classes(request: Request) -> Response:
        view, found = group_of(request, fleet, now())
        answers = [
            {"run": run["run"], "state": run["state"], "results": run["results"], **run["path_class"]} for run in found
        ]
        return json_response({**view, "members": answers})

    def forecast(request: Request) -> Response:
        view, found = group_of(request, fleet, now())
        learned = seen_by(request, fleet).forecasts().get((view["tenant"], view["group"]))
        return json_response(forecast_answer(view["group"], found, [] if learned is None else [learned]))

    def forecasts(request: Request) -> Response:
        seen = seen_by(request, fleet)
        return json_response(fleet_answer(seen.runs(now()), seen.forecasts()))

    return Starlette(
        routes=[
            Route("/", _index),
            Route("/metrics", metrics),
            Route("/-/healthy", _healthy),
            Route("/-/ready", ready),
            Route("/api/v1/runs", runs),
            Route("/api/v1/runs/{run}", run),
            Route("/api/v1/runs/{run}/shape", shape),
            Route("/api/v1/runs/{run}/slice", slice_of, methods=["POST"]),
            Route("/api/v1/forecasts", forecasts),
            Route("/api/v1/groups/{group}/classes", classes),
            Route("/api/v1/groups/{group}/forecast", forecast),
            Route("/api/v1/groups/{group}/map", group_map),
        ],
        middleware=[Middleware(SecurityHeaders), Middleware(Guard, gate=gate, audit=audit, local=local)],
        exception_handlers={RefusedError: _refused, HTTPException: _failed, Exception: _failed},
    )


async def close_up(viewer: Viewer | None, subject: Subject) -> Response:
    """Answer with what the engine draws of a run or a group; raises RefusedError."""
    if viewer is None:
        raise RefusedError(503, "this daemon draws nothing")
    try:
        answer = await viewer.at(subject)
    except NotDrawnError as error:
        raise RefusedError(503, str(error)) from None
    if answer is None:
        raise RefusedError(503, "nothing of this run has been analysed yet: try again in some seconds")
    return json_response(answer)


async def body_of(request: Request) -> bytes:
    """Return the body of a request that is to be short; raises RefusedError."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BODY_BYTES:
            raise RefusedError(413, f"the body has over {MOST_BODY_BYTES} bytes")
    return body


async def _healthy(_: Request) -> Response:
    return PlainTextResponse("topowatch is up\n")


async def _index(_: Request) -> Response:
    return Response(page.HTML, media_type="text/html")


async def _refused(_: Request, error: Exception) -> Response:
    if not isinstance(error, RefusedError):
        raise error
    return json_response({"error": str(error), **error.more}, error.status)


async def _failed(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else "an internal error; the daemon's log has more"
    return json_response({"error": detail}, status)


def summary_of(view: GroupView) -> dict[str, Any]:
    """Return what a list of runs tells of a group; all of it is at /api/v1/groups/{group}/classes."""
    return {
        "tenant": view["tenant"],
        "group": view["group"],
        "abstained": view["abstained"],
        "reason": view["reason"],
        "classes": len(view["classes"]),
        "outliers": view["outliers"],
    }


class SecurityHeaders:
    """Adds `HEADERS` to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and add to the head of its response."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self._headers]
            await send(message)

        await self._app(scope, receive, send_with_headers)
