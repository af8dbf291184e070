"""The engine's loop: what it tells the front at once is of one moment."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from group_runs import GROUP, TENANT, opened, two_ways, went
from memory_store import MemoryLog, MemorySnapshots
from topowatch_monitor.engine.checkpoints import Checkpoints
from topowatch_monitor.engine.closeups import CloseUps
from topowatch_monitor.engine.dispatcher import Dispatcher
from topowatch_monitor.engine.forecasts import Forecasts
from topowatch_monitor.engine.groups import Groups, GroupSettings
from topowatch_monitor.engine.look import Subject
from topowatch_monitor.engine.loop import FrontLink, run_engine
from topowatch_monitor.engine.parts import Parts
from topowatch_monitor.engine.path_state import PathSettings
from topowatch_monitor.engine.pool import Call, InlinePool, ShardLostError
from topowatch_monitor.engine.shard import Shard
from topowatch_monitor.engine.told import RunSettings

if TYPE_CHECKING:
    from topowatch_monitor.engine.loop import EngineReport

SMALL = RunSettings(path=PathSettings(window=64, h1_every=100, h1_landmarks=8, shape_every=500))


class Losing(InlinePool):
    """A pool whose carrier is lost when it is first asked for what is drawn."""

    lost = False

    def call(self, carrier: int, method: str, *arguments: object) -> Call:
        if method == "shape" and not self.lost:
            self.lost = True
            raise ShardLostError(carrier, "planned")
        return super().call(carrier, method, *arguments)


class Front(FrontLink):
    """Has the log grow once the engine is there, and looks at a run of it at the same moment."""

    def __init__(self, end: int) -> None:
        super().__init__()
        self._end = end
        self.reports: list[EngineReport] = []

    def report(self, report: EngineReport) -> None:
        self.reports.append(report)
        if len(self.reports) == 1:
            self.advance(self._end)
            self.look(Subject(TENANT, GROUP, "live"))
        elif report["close_ups"]:
            self.close()


def test_no_record_counts_as_told_before_the_views_that_it_is_part_of() -> None:
    """Where a carrier is lost over a question, all that is under way is taken in, and told with the next report."""
    log = MemoryLog(opened("live") + went("live", two_ways(1, 0)[0][0]))
    pool = Losing(lambda: Shard(SMALL))
    checkpoints = Checkpoints(MemorySnapshots())
    dispatcher = Dispatcher(log, pool, checkpoints)
    pace = GroupSettings()
    parts = Parts(
        dispatcher,
        Groups(dispatcher, pool, checkpoints, settings=pace, wall=lambda: 1e9),
        Forecasts(dispatcher, pool, settings=pace),
        CloseUps(dispatcher, pool, timeout=1e9),
    )
    front = Front(len(log.records))
    seconds = count()
    run_engine(parts, front, lambda: float(next(seconds)))
    assert dispatcher.restarts == 1
    told = [(report["applied"], [view["samples"] for view in report["views"]]) for report in front.reports]
    assert (0, []) in told
    first = next(views for applied, views in told if applied == len(log.records))
    assert first == [len(log.records) - 1]
