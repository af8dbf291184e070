"""The parts of an engine, put together on a pool of shards."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from topowatch_monitor.engine.checkpoints import Checkpoints
from topowatch_monitor.engine.closeups import CloseUps
from topowatch_monitor.engine.dispatcher import Dispatcher
from topowatch_monitor.engine.forecasts import Forecasts
from topowatch_monitor.engine.groups import Groups
from topowatch_monitor.store.reader import LogReader
from topowatch_monitor.store.snapshots import SnapshotStore

if TYPE_CHECKING:
    from topowatch_monitor.engine.host import HostSettings
    from topowatch_monitor.engine.pool import ShardPool
    from topowatch_monitor.store.disk import Disk


class Parts(NamedTuple):
    """What follows the log, and what is done now and then beside it."""

    dispatcher: Dispatcher
    groups: Groups
    forecasts: Forecasts
    close_ups: CloseUps


def parts_of(settings: HostSettings, pool: ShardPool, disk: Disk) -> Parts:
    """Put an engine together on the data directory that the settings name."""
    data = Path(settings.data_dir)
    checkpoints = Checkpoints(SnapshotStore(data / "snapshots", disk))
    dispatcher = Dispatcher(
        LogReader(data / "log", disk), pool, checkpoints, snapshot_seconds=settings.snapshot_seconds
    )
    pace = settings.group_settings()
    return Parts(
        dispatcher,
        Groups(dispatcher, pool, checkpoints, settings=pace, wall=time.time),
        Forecasts(dispatcher, pool, settings=pace),
        CloseUps(dispatcher, pool, timeout=pace.timeout_seconds),
    )
