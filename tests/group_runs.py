"""Runs of one group with planned paths of predictions, as the log holds them, and an engine that follows that log."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from planted_paths import around
from topowatch_monitor.engine.checkpoints import Checkpoints
from topowatch_monitor.engine.dispatcher import Dispatcher
from topowatch_monitor.engine.group_fit import EndedRun, fit_group
from topowatch_monitor.engine.groups import Groups, GroupSettings
from topowatch_monitor.store.disk import OsDisk
from topowatch_monitor.store.log import Log
from topowatch_monitor.store.reader import LogReader
from topowatch_monitor.store.snapshots import SnapshotStore
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2, run_pb2, sample_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from topowatch_monitor.engine.group_fit import GroupFit, Refused
    from topowatch_monitor.engine.group_view import GroupView
    from topowatch_monitor.engine.pool import ShardPool
    from topowatch_monitor.engine.view import RunView

    Records = list[tuple[int, bytes]]

TENANT, GROUP = "t", "g"
DIGEST = b"\x01" * 32
ATLAS_SECONDS = 3000.0  # far more than the clock moves while a test waits for a job


def two_ways(over: int, under: int, *, seed: int = 0, dims: int = 8) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Paths over and under one round hole that stands clear of all noise, float32."""
    paths, truth = around(120, seed, winding=0.0, dims=dims, noise=0.005, width=0.02, ends=0.02, samples=(30, 60))
    told = [path.astype(np.float32) for path in paths]
    above = [path for path, turns in zip(told, truth, strict=True) if turns == (1,)]
    below = [path for path, turns in zip(told, truth, strict=True) if turns == (-1,)]
    assert len(above) >= over
    assert len(below) >= under
    return above[:over], below[:under]


def named(over: Sequence[NDArray[Any]], under: Sequence[NDArray[Any]] = ()) -> dict[str, NDArray[Any]]:
    """Paths by the names of runs: a00, a01, … over the hole, b00, b01, … under it."""
    return {
        f"{side}{number:02d}": path for side, paths in (("a", over), ("b", under)) for number, path in enumerate(paths)
    }


def handed_out(paths: dict[str, NDArray[Any]], **changes: Any) -> list[EndedRun]:
    """Ended runs with these paths, as a shard hands them out."""
    told = {"digest": DIGEST.hex(), "labels": {}, "results": {}, **changes}
    return [EndedRun(run, len(points), points=points, **told) for run, points in paths.items()]


# What the log holds of a run


def key(run: str, group: str = GROUP) -> run_pb2.RunKey:
    return run_pb2.RunKey(tenant=TENANT, group=group, run=run)


def opened(run: str, *, incarnation: int = 1, start: int = 0, digest: bytes = DIGEST, group: str = GROUP) -> Records:
    descriptor = run_pb2.RunDescriptor(
        key=key(run, group), incarnation=incarnation, start_step=start, contributing_ranks=1
    )
    descriptor.probe.digest = digest
    return [(int(LogKind.RUN_OPENED), log_pb2.RunOpened(descriptor=descriptor).SerializeToString())]


def went(
    run: str, points: Iterable[NDArray[Any]], *, start: int = 0, incarnation: int = 1, group: str = GROUP
) -> Records:
    """Samples with predictions at these points, one a step."""
    records = []
    for step, point in enumerate(points, start):
        sample = sample_pb2.Sample(step=step)
        sample.predictions.sketch.values = np.asarray(point).astype("<f4").tobytes()
        records.append(_stored(run, sample_pb2.Item(schema=1, sample=sample), incarnation, group))
    return records


def ended(run: str, *, incarnation: int = 1, group: str = GROUP, **results: float) -> Records:
    end = sample_pb2.RunEnd(results=results)
    return [_stored(run, sample_pb2.Item(schema=1, end=end), incarnation, group)]


def whole(paths: dict[str, NDArray[Any]], *, group: str = GROUP, **results: float) -> Records:
    """Runs from their beginning to their end, one after the other."""
    return [
        record
        for run, path in paths.items()
        for record in opened(run, group=group) + went(run, path, group=group) + ended(run, group=group, **results)
    ]


def forgotten(runs: Iterable[str], *, group: str = GROUP) -> Records:
    """What retention writes when it takes runs out."""
    kind = int(LogKind.RUN_FORGOTTEN)
    return [(kind, log_pb2.Event(key=key(run, group)).SerializeToString()) for run in runs]


def _stored(run: str, item: sample_pb2.Item, incarnation: int, group: str) -> tuple[int, bytes]:
    stored = log_pb2.StoredItem(key=key(run, group), incarnation=incarnation, item=item.SerializeToString())
    return int(LogKind.STORED_ITEM), stored.SerializeToString()


class ThreadJob:
    """A call in a thread of this process, in the place of a ChildJob, of which most tests would wait for imports alone.

    It cannot be killed, so it is for jobs that come to their end.
    """

    NAME = "group-job-in-thread"

    def __init__(self, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
        self._answer: tuple[bool, Any] = (False, "")
        self._thread = threading.Thread(target=self._run, args=(function, arguments), name=self.NAME, daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def answer(self) -> tuple[bool, Any]:
        self._thread.join()
        return self._answer

    def kill(self) -> None:
        self._thread.join()

    def _run(self, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
        try:
            self._answer = True, function(*arguments)
        except Exception as error:  # noqa: BLE001 - as of a ChildJob
            self._answer = False, f"{type(error).__name__}: {error}"


class Engine:
    """Dispatcher and groups over a real log and real snapshots, driven turn by turn, on a clock that a test moves."""

    def __init__(
        self,
        directory: Path,
        pool: ShardPool,
        *,
        fit: Callable[..., GroupFit | Refused] = fit_group,
        atlas_seconds: float = ATLAS_SECONDS,
        timeout_seconds: float = 1e9,
    ) -> None:
        self.pool = pool
        self.now = 0.0
        self.runs: dict[str, RunView] = {}
        self.told: dict[str, GroupView] = {}
        self._log = Log.open(directory / "log", OsDisk())
        checkpoints = Checkpoints(SnapshotStore(directory / "snapshots", OsDisk()))
        self.dispatcher = Dispatcher(LogReader(directory / "log", OsDisk()), pool, checkpoints)
        self.groups = Groups(
            self.dispatcher,
            pool,
            checkpoints,
            settings=GroupSettings(atlas_seconds, timeout_seconds),
            wall=lambda: 1e9,
            fit=fit,
        )
        self.dispatcher.restore(self._log.next_offset)
        self.groups.restore()

    def write(self, records: Records) -> None:
        self._log.append(records)

    def turn(self, seconds: float = 0.25, *, caught_up: bool = True) -> None:
        """One turn of the engine's loop, some seconds after the last; what it tells can go over the front's socket."""
        self.now += seconds
        self.dispatcher.pump(self._log.next_offset)
        self.dispatcher.wait(timeout=0.01)
        views = self.dispatcher.take_views()
        self.groups.see(views)
        self.groups.tick(self.now, caught_up=caught_up and self.dispatcher.position == self._log.next_offset)
        changed = self.groups.take_views()
        assert json.loads(json.dumps([views, changed])) == json.loads(json.dumps([views, changed]))
        self.runs |= {view["run"]: view for view in views}
        self.told |= {view["group"]: view for view in changed}

    def until(self, true: Callable[[], Any], *, within: float = 200.0) -> Any:
        """Turn after turn until something is true; the clock moves by a look at the groups each time."""
        deadline = time.monotonic() + within
        while not (found := true()):
            assert time.monotonic() < deadline, "not so in time"
            time.sleep(0.02)
            self.turn()
        return found

    def settle(self) -> None:
        """Until every record is applied and told, every place found, and what is due done."""
        self.until(lambda: self.dispatcher.position == self._log.next_offset)
        for _ in range(3):
            self.dispatcher.settle()
            self.turn()

    def fitted(self, fits: int = 1, group: str = GROUP) -> GroupView:
        """What is told of a group once so many refits of it have ended."""
        self.until(lambda: group in self.told and self.told[group]["fits"] >= fits)
        self.settle()
        return self.told[group]

    def close(self) -> None:
        """End the engine as a SIGKILL would: nothing is saved."""
        self.groups.close()
        self._log.close()
