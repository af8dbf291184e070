"""What the front does with what the engine tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from group_views import group_view, run_view
from topowatch_monitor import config
from topowatch_monitor.engine.view import FORGOTTEN
from topowatch_monitor.serve import Daemon
from topowatch_monitor.store.log import Record
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2, run_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def report(**changes: Any) -> Any:
    told = {
        "views": [],
        "groups": [],
        "forecasts": [],
        "group_forecasts": [],
        "homology_timeouts": 0,
        "close_ups": [],
        "homology_refused": 0,
    }
    return {**told, "applied": 0, "restarts": 0, "lost_records": 0, **changes}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(config.load({"data_dir": tmp_path, "engine": "inline"}).settings)
    yield made
    made.log.close()


def introduce(daemon: Daemon, run: str) -> None:
    """Have ingest know a run, as a log says that it does."""
    view = run_view(run)
    descriptor = run_pb2.RunDescriptor(key=run_pb2.RunKey(tenant=view["tenant"], group=view["group"], run=run))
    opened = log_pb2.RunOpened(descriptor=descriptor)
    daemon.ingest._admission.restore([Record(0, LogKind.RUN_OPENED, opened.SerializeToString())])


def test_groups_reach_the_fleet(daemon: Daemon):
    introduce(daemon, "a")
    daemon._take_report(report(views=[run_view()], groups=[group_view()]))
    told, [member] = daemon.fleet.group("g", 1100.0)
    assert (told["version"], member["run"]) == (3, "a")


def test_a_run_that_is_forgotten_farther_on_in_the_log_is_not_shown(daemon: Daemon):
    introduce(daemon, "a")
    daemon._take_report(report(views=[run_view("a"), run_view("passed by")]))
    assert [run["run"] for run in daemon.fleet.runs(1100.0)] == ["a"]
    daemon._take_report(report(views=[{**run_view("a"), "state": FORGOTTEN}]))
    assert daemon.fleet.runs(1100.0) == []


def test_homology_that_was_given_up_is_added_up(daemon: Daemon):
    daemon._take_report(report(homology_timeouts=1, homology_refused=2))
    daemon._take_report(report(homology_timeouts=3))
    stats = daemon.stats()
    assert (stats.homology_timeouts_total, stats.homology_refused_total) == (4, 2)


def test_an_engine_that_makes_a_run_again_takes_nothing_back_of_it(daemon: Daemon):
    """It tells of the past of the run first; what a damaged log has lost is told once that is done."""
    introduce(daemon, "a")

    def told(applied: int, samples: int) -> int | None:
        step = 4 * samples
        daemon._take_report(report(applied=applied, views=[{**run_view("a"), "samples": samples, "step": step}]))
        [run] = daemon.fleet.runs(1100.0)
        return run["step"]

    assert told(100, 50) == 200
    assert told(30, 10) == 200
    assert told(90, 50) == 200
    assert told(110, 55) == 220
    assert told(120, 54) == 216
