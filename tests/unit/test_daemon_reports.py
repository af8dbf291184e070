"""What the front does with what the engine tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from group_views import group_view, run_view
from topowatch_monitor import config
from topowatch_monitor.serve import Daemon

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
        "homology_refused": 0,
    }
    return {**told, "applied": 0, "restarts": 0, "lost_records": 0, **changes}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(config.load({"data_dir": tmp_path, "engine": "inline"}).settings)
    yield made
    made.log.close()


def test_groups_reach_the_fleet(daemon: Daemon):
    daemon._take_report(report(views=[run_view()], groups=[group_view()]))
    told, [member] = daemon.fleet.group("g", 1100.0)
    assert (told["version"], member["run"]) == (3, "a")


def test_homology_that_was_given_up_is_added_up(daemon: Daemon):
    daemon._take_report(report(homology_timeouts=1, homology_refused=2))
    daemon._take_report(report(homology_timeouts=3))
    stats = daemon.stats()
    assert (stats.homology_timeouts_total, stats.homology_refused_total) == (4, 2)
