"""The parts of an engine, put together on a pool of shards."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from topowatch_monitor.detect.threshold_tables import thresholds_from
from topowatch_monitor.engine.checkpoints import Checkpoints
from topowatch_monitor.engine.closeups import CloseUps
from topowatch_monitor.engine.dispatcher import Dispatcher
from topowatch_monitor.engine.forecasts import Forecasts
from topowatch_monitor.engine.groups import Groups, GroupSettings
from topowatch_monitor.engine.path_state import PathSettings
from topowatch_monitor.engine.told import RunSettings
from topowatch_monitor.store.reader import LogReader
from topowatch_monitor.store.snapshots import SnapshotStore

if TYPE_CHECKING:
    from topowatch_monitor.engine.pool import ShardPool
    from topowatch_monitor.engine.settings import HostSettings
    from topowatch_monitor.store.disk import Disk


class Parts(NamedTuple):
    """What follows the log, and what is done now and then beside it."""

    dispatcher: Dispatcher
    groups: Groups
    forecasts: Forecasts
    close_ups: CloseUps


def run_settings(settings: HostSettings) -> RunSettings:
    """How much of each run is looked at, and when detectors fire."""
    path = PathSettings(window=settings.path_window, h1_every=settings.h1_every, h1_landmarks=settings.h1_landmarks)
    return RunSettings(path=path, history=settings.history_window, thresholds=thresholds_from(settings.thresholds))


def parts_of(settings: HostSettings, pool: ShardPool, disk: Disk) -> Parts:
    """Put an engine together on the data directory that the settings name."""
    data = Path(settings.data_dir)
    checkpoints = Checkpoints(SnapshotStore(data / "snapshots", disk))
    dispatcher = Dispatcher(
        LogReader(data / "log", disk), pool, checkpoints, snapshot_seconds=settings.snapshot_seconds
    )
    pace = GroupSettings(settings.atlas_seconds, settings.homology_timeout_seconds)
    return Parts(
        dispatcher,
        Groups(dispatcher, pool, checkpoints, settings=pace, wall=time.time),
        Forecasts(dispatcher, pool, settings=pace),
        CloseUps(dispatcher, pool, timeout=pace.timeout_seconds),
    )
