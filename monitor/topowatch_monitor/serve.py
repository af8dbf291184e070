"""The daemon: composes log, ingest, engine and HTTP in one event loop, and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.metadata
import logging
import resource
import signal
import socket
import time
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

import uvicorn

from topowatch_monitor.access.exposure import is_loopback
from topowatch_monitor.detect.stalled_run import StalledRunThresholds
from topowatch_monitor.doors import Doors, UnsafeError
from topowatch_monitor.engine.logs import set_up_logging
from topowatch_monitor.engine.settings import HostSettings
from topowatch_monitor.engine.supervisor import HostedEngine
from topowatch_monitor.engine.view import FORGOTTEN, at
from topowatch_monitor.export.closeups import Viewer
from topowatch_monitor.export.fleet import DaemonStats, Fleet, IngestSummary
from topowatch_monitor.export.http import create_app
from topowatch_monitor.export.last_views import LastViews
from topowatch_monitor.export.patience import http_config
from topowatch_monitor.ingest.admission import Admission
from topowatch_monitor.ingest.core import Ingest
from topowatch_monitor.ingest.limits import Limits
from topowatch_monitor.ingest.retention import Retention
from topowatch_monitor.ingest.service import start_server
from topowatch_monitor.notify import notify
from topowatch_monitor.store.commit import GroupCommit
from topowatch_monitor.store.disk import OsDisk, room_at
from topowatch_monitor.store.log import Log, LogVersionError
from topowatch_monitor.store.snapshots import SnapshotStore
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2, run_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from topowatch_monitor.config import Address, Settings
    from topowatch_monitor.engine.forecasts import NewForecast
    from topowatch_monitor.engine.loop import EngineReport
    from topowatch_monitor.engine.supervisor import Engine
    from topowatch_monitor.engine.view import RunView
    from topowatch_monitor.export.fleet import FleetRun

log = logging.getLogger("topowatch")

SUMMARY_SECONDS = 0.5  # between two looks at ingest's counts
KEEP_SECONDS = 10.0  # between two times that what is shown is kept
KEEP_SHARE = 50.0  # and in times of what that took
KEEP_LAST_SECONDS = 5.0  # for the last time, before the end
FAILED, CANNOT_START = 1, 2
DAY = 86_400.0
SWEEP_SECONDS = 3600.0  # between two sweeps of the log, at most


class Daemon:
    """Everything of one daemon that lives in its front process."""

    def __init__(self, settings: Settings) -> None:
        """Open the data directory and compose the parts; nothing listens yet.

        Raises:
            LogVersionError: another version wrote the data directory.
            OSError: the data directory cannot be written, or another daemon holds it.
            UnsafeError: strangers could reach it.
        """
        self._settings = settings
        disk = OsDisk()
        disk.make_directory(settings.data_dir)
        self.doors = Doors.of(settings)
        self.log = Log.open(settings.data_dir / "log", disk, segment_bytes=settings.segment_bytes)
        if self.log.repaired_bytes:
            log.warning(
                "cut %d bytes off the end of the log that do not read as records and put them aside as .torn-*: a crash"
                " leaves at most one flush that was never acked; more than that is a damaged disk",
                self.log.repaired_bytes,
            )
        if self.log.strange_kinds:
            log.warning(
                "the log holds records of kinds that this version does not know (%s), so a newer one has written to it:"
                " they are kept and passed over; what they say is told again after an upgrade",
                ", ".join(map(str, sorted(self.log.strange_kinds))),
            )
        self.served = False
        self._applied = self._told = 0  # log offsets: analysed by the engine of now, and by any that told of it
        self._restarts = 0
        self._lost_records = 0
        self._homology_timeouts = 0
        self._homology_refused = 0
        self.limits = Limits(
            max_message_bytes=settings.max_message_bytes,
            max_pending_bytes=settings.max_pending_bytes,
            max_runs=settings.max_runs,
            max_labels=settings.max_labels,
            tenant_runs=settings.tenant_max_runs,
            tenant_streams=settings.tenant_max_streams,
            tenant_samples_per_second=settings.tenant_max_samples_per_second,
            tenant_bytes_per_second=settings.tenant_max_bytes_per_second,
        )
        silence = settings.detect.stalled_run
        self.fleet = Fleet(
            partial(at, thresholds=silence),
            lost_seconds=silence.lost_seconds,
            ended_series_seconds=settings.ended_series_seconds,
        )
        told = self._engine_settings()
        self.engine = self._make_engine(told, disk)
        self.viewer = Viewer(self.engine.look)
        admission = Admission(self.limits)
        admission.restore(self.log.last_segment())
        self.engine.advance(self.log.next_offset)
        self.commit = GroupCommit(self.log, on_durable=self.engine.advance)
        self.ingest = Ingest(admission, self.commit, limits=self.limits)
        made_by = f"{importlib.metadata.version('topowatch')} {told.to_json()}"
        self.last_views = LastViews(SnapshotStore(settings.data_dir / "views", disk), made_by)
        self._recall()
        self.retention = Retention(self.ingest, self.commit, settings.data_dir / "log", disk)

    def _engine_settings(self) -> HostSettings:
        settings = self._settings
        # Silence is judged here, by the clock, so that other limits of it leave snapshots of the runs valid.
        thresholds = replace(settings.detect, stalled_run=StalledRunThresholds())
        return HostSettings(
            data_dir=str(settings.data_dir.absolute()),
            shards=settings.shards,
            most_shards=settings.most_shards or settings.shards,
            ray_address=settings.ray_address,
            snapshot_seconds=settings.snapshot_seconds,
            path_window=settings.path_window,
            h1_every=settings.h1_every,
            h1_landmarks=settings.h1_landmarks,
            history_window=settings.history_window,
            atlas_seconds=settings.atlas_seconds,
            homology_timeout_seconds=settings.homology_timeout_seconds,
            thresholds=asdict(thresholds),
            log_format=settings.log_format,
        )

    def _make_engine(self, told: HostSettings, disk: OsDisk) -> Engine:
        if self._settings.engine == "ray":
            return HostedEngine(told, self._settings.data_dir / "engine.log", self._take_report)
        # Imported here: beside Ray this process needs nothing of what computes.
        from topowatch_monitor.engine.inline import InlineEngine

        return InlineEngine(told, disk, self._take_report)

    def _recall(self) -> None:
        """Show what was told before this start, until the engine tells of it."""
        recalled = self.last_views.recall(self.log.next_offset)
        if recalled is not None:
            self._told = recalled.offset
            runs = self._known(recalled.runs)
            there = {(run["tenant"], run["group"]) for run in runs}
            self.fleet.update(runs)
            self.fleet.update_groups(view for view in recalled.groups if (view["tenant"], view["group"]) in there)
            self.fleet.update_forecasts(view for view in recalled.forecasts if (view["tenant"], view["group"]) in there)

    def _known(self, views: Iterable[RunView]) -> list[RunView]:
        """Those that are of runs that there are, or say that one is forgotten."""
        return [view for view in views if view["state"] == FORGOTTEN or self._knows(view)]

    def _knows(self, told: RunView | NewForecast) -> bool:
        return self.ingest.knows(run_pb2.RunKey(tenant=told["tenant"], group=told["group"], run=told["run"]))

    def _take_report(self, report: EngineReport) -> None:
        self._applied = report["applied"]
        behind, self._told = self._applied < self._told, max(self._applied, self._told)
        self._restarts += report["restarts"]
        self._lost_records += report["lost_records"]
        # A log that is read again from its beginning passes by runs that are forgotten later in it.
        self.fleet.update(self._known(report["views"]), behind=behind)
        self._homology_timeouts += report["homology_timeouts"]
        self._homology_refused += report["homology_refused"]
        self.fleet.update_groups(report["groups"])
        self.fleet.update_forecasts(report["group_forecasts"])
        self.viewer.take(report["close_ups"])
        # Of a run that was forgotten meanwhile, it would make one again that nobody forgets.
        self.ingest.note([(LogKind.FORECAST, _record_of(made)) for made in report["forecasts"] if self._knows(made)])

    def stats(self) -> DaemonStats:
        """The daemon's own figures now."""
        counters = self.ingest.counters
        room = room_at(self._settings.data_dir)
        return DaemonStats(
            ingest_ready=self.ingest.ready,
            samples_total=counters.samples_total,
            rejected_total=dict(counters.rejected_total),
            bytes_total=counters.bytes_total,
            denied_total=dict(self.doors.audit.denied),
            acks_total=dict(counters.acks_total),
            ack_seconds_buckets=tuple(counters.ack_seconds.cumulative()),
            ack_seconds_sum=counters.ack_seconds.sum,
            shard_lag_samples=max(0, self.log.next_offset - self._applied),
            records_lost_total=self._lost_records,
            shards=self.engine.carriers,
            shards_wanted=self._settings.shards if self._settings.engine == "ray" else 1,
            shard_restarts_total=self._restarts + self.engine.restarts,
            log_bytes=self.log.size_bytes,
            disk_free_bytes=None if room is None else room.free,
            disk_size_bytes=None if room is None else room.size,
            certificate_ends_at=None if self.doors.certificates is None else self.doors.certificates.ends_at,
            homology_timeouts_total=self._homology_timeouts,
            homology_refused_total=self._homology_refused,
        )

    def not_ready(self) -> list[str]:
        """Why the daemon does not take samples, in words; empty while it does."""
        return [] if self.ingest.ready else [self.ingest.reason]

    def late(self) -> list[str]:
        """Why results come late or not at all, though samples are taken, in words; empty while they do not."""
        return [f"results come late: {self.engine.trouble}"] if self.engine.trouble else []

    def ask_for_slice(self, run: FleetRun, side: int) -> str:
        """Have a run's job take a slice of its loss; return the id that it will come with."""
        landscape = run["landscape"]
        answered = landscape["request"] if landscape is not None else ""
        return self.ingest.wishes.ask((run["tenant"], run["group"], run["run"]), side, answered)

    async def run(self, grpc_at: Address, http_at: Address) -> None:
        """Serve until SIGTERM or SIGINT, then stop taking samples, store what is under way and save the engine's state.

        Raises:
            OSError: an address cannot be listened on.
        """
        listener = listen(http_at)
        version = importlib.metadata.version("topowatch")
        gate, audit, certificates = self.doors.gate, self.doors.audit, self.doors.certificates
        app = create_app(
            self.fleet,
            stats=self.stats,
            not_ready=self.not_ready,
            late=self.late,
            version=version,
            ask=self.ask_for_slice,
            viewer=self.viewer,
            gate=gate,
            audit=audit,
            tenant_series=self._settings.tenant_max_series,
            local=is_loopback(http_at.host) and not self._settings.insecure,
        )
        http = _Http(http_config(app, None if certificates is None else certificates.context))
        grpc_server, grpc_port = await start_server(
            self.ingest, str(grpc_at), gate=gate, audit=audit, certificates=certificates
        )
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        engine = asyncio.create_task(self.engine.run())
        summaries = asyncio.create_task(self._summarise())
        doors = asyncio.create_task(self.doors.follow())
        keeping = asyncio.create_task(self._keep_views())
        retention = asyncio.create_task(self._retain())
        serving = asyncio.create_task(http.serve(sockets=[listener]))
        http_port = listener.getsockname()[1]
        print(f"ready grpc={_at(grpc_at, grpc_port)} http={_at(http_at, http_port)}", flush=True)
        self.served = True
        notify("READY=1")
        self.doors.started()
        stopping = asyncio.create_task(stop.wait())
        try:
            # None of these ends by itself unless it fails, and then the daemon must not linger.
            done, _ = await asyncio.wait(
                {stopping, engine, summaries, doors, keeping, retention, serving}, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done - {stopping}:
                task.result()
        finally:
            notify("STOPPING=1")
            retention.cancel()  # in the middle of a sweep it would find the log closed
            await self.ingest.close()  # first: whoever asks is told that it is not ready, and jobs to come again
            closing = asyncio.create_task(grpc_server.stop(grace=2.0))  # meanwhile the engine saves its state
            try:
                for task in (keeping, engine, summaries, doors, retention):
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
            finally:
                await closing
            try:
                await asyncio.wait_for(self.last_views.keep_aside(self._told, self.fleet), KEEP_LAST_SECONDS)
            except asyncio.TimeoutError:
                log.error("what is shown cannot be kept in time: going on without it")
            http.should_exit = True
            await serving
            self.log.close()
            audit.close()

    async def _keep_views(self) -> None:
        """Keep what is shown for the next start; never returns."""
        pause = KEEP_SECONDS
        while True:
            await asyncio.sleep(pause)
            began = time.monotonic()
            await self.last_views.keep_aside(self._told, self.fleet)
            pause = max(KEEP_SECONDS, KEEP_SHARE * (time.monotonic() - began))

    async def _retain(self) -> None:
        """Take out of the log what is older than was asked for; never returns."""
        days = self._settings.retention_days
        while days is not None:
            try:
                swept = await self.retention.sweep(time.time() - days * DAY)
            except OSError as error:
                log.warning("the log could not be swept, another try follows: %s", error)
            else:
                if swept.runs or swept.freed:
                    log.info("forgot %d runs, freed %d bytes of the log", swept.runs, swept.freed)
            await asyncio.sleep(min(SWEEP_SECONDS, days * DAY / 24))
        await asyncio.Event().wait()

    async def _summarise(self) -> None:
        """Keep the fleet's knowledge of what ingest has counted fresh."""
        while True:
            self.fleet.update_ingest(
                IngestSummary(
                    tenant=run.key.tenant,
                    group=run.key.group,
                    run=run.key.run,
                    labels=dict(run.descriptor.labels),
                    samples=run.samples,
                    rejected=run.rejected,
                    dropped=run.dropped,
                    step=run.last_step,
                    started_at=run.opened_at,
                    last_received_at=run.last_received_at,
                    ended=run.ended,
                )
                for run in self.ingest.take_changed()
            )
            await asyncio.sleep(SUMMARY_SECONDS)


def _record_of(made: NewForecast) -> bytes:
    """The log record of a forecast that was made now."""
    record = log_pb2.Forecast(
        key=run_pb2.RunKey(tenant=made["tenant"], group=made["group"], run=made["run"]),
        step=made["step"],
        metric=made["metric"],
        value=made["value"],
        lower=made["lower"],
        upper=made["upper"],
    )
    record.made_at.GetCurrentTime()
    return record.SerializeToString()


class _Http(uvicorn.Server):
    """uvicorn without its signal handlers: the daemon has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def _at(address: Address, port: int) -> str:
    return str(type(address)(address.host, port))


def raise_file_limit() -> None:
    """Hold as many files and connections open as the service manager allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def listen(address: Address) -> socket.socket:
    """Bind a TCP socket; raises OSError with the address and what to do in its message."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address.host, address.port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {address} ({error.strerror}): choose another with --http") from None
    return listener


def run(settings: Settings) -> int:
    """Run a daemon to its end; returns the exit status, 2 if it could not start."""
    set_up_logging(settings.log_format)
    raise_file_limit()
    # A scrape of 1,000 runs makes 20,000 objects: by default the heap was searched in every seventh, for 0.1 s.
    gc.set_threshold(50_000, *gc.get_threshold()[1:])
    try:
        daemon = Daemon(settings)
    except (UnsafeError, LogVersionError) as error:
        log.error("%s", error)
        return CANNOT_START
    except OSError as error:
        log.error(
            "cannot keep data in %s (%s): with --data-dir, name one that you can write and no other daemon uses",
            settings.data_dir,
            error,
        )
        return CANNOT_START
    started = time.monotonic()
    try:
        asyncio.run(daemon.run(settings.grpc, settings.http))
    except OSError as error:
        log.error("%s", error, exc_info=daemon.served)
        return FAILED if daemon.served else CANNOT_START
    log.info("stopped after %.0f s", time.monotonic() - started)
    return 0
