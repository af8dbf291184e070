"""What the front does with what the engine tells it."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from group_views import group_view, run_view
from harness import eventually
from topowatch_monitor import config, serve
from topowatch_monitor.config import Address
from topowatch_monitor.engine.view import FORGOTTEN, at
from topowatch_monitor.export.fleet import Fleet
from topowatch_monitor.export.last_views import LastViews
from topowatch_monitor.serve import Daemon
from topowatch_monitor.store.disk import OsDisk
from topowatch_monitor.store.log import Record
from topowatch_monitor.store.snapshots import SnapshotStore
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2, run_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from topowatch_monitor.store.disk import DiskFile


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


def test_forecasts_go_into_the_log_but_those_of_runs_that_are_forgotten(daemon: Daemon, monkeypatch: Any):
    noted: list[Any] = []
    monkeypatch.setattr(daemon.ingest, "note", noted.extend)
    introduce(daemon, "a")
    told = {"step": 5, "metric": "loss", "value": 0.2, "lower": 0.1, "upper": 0.3}
    keys = [{name: run_view(run)[name] for name in ("tenant", "group", "run")} for run in ("a", "gone")]
    daemon._take_report(report(forecasts=[key | told for key in keys]))
    [(kind, payload)] = noted
    assert kind == LogKind.FORECAST
    assert log_pb2.Forecast.FromString(payload).key.run == "a"


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


def test_an_engine_that_makes_a_run_again_takes_nothing_back_that_came_without_a_sample(daemon: Daemon):
    """Such as its end, a new life of its job, or that it is another run than one of its name that was forgotten."""
    introduce(daemon, "a")

    def told(applied: int, state: str, at: float, samples: int = 50) -> str:
        view = run_view("a", samples=samples, state=state, last_received_at=at)
        daemon._take_report(report(applied=applied, views=[view]))
        [run] = daemon.fleet.runs(1100.0)
        return str(run["state"])

    assert told(100, "ended", 1090.0) == "ended"
    assert told(30, "live", 1080.0) == "ended"
    assert told(40, "live", 1000.0, samples=9000) == "ended"
    assert told(100, "ended", 1090.0) == "ended"
    assert told(110, "live", 1095.0) == "live"


def test_what_was_told_before_a_start_is_shown_at_once_and_never_taken_back(tmp_path: Path):
    """Until the engine is there again, which takes Ray a while; but for runs that are forgotten."""
    settings = config.load({"data_dir": tmp_path, "engine": "inline"}).settings
    before = Daemon(settings)
    for run in ("a", "gone"):
        introduce(before, run)
    told = {**run_view("a"), "samples": 50, "step": 200, "loss": math.nan}
    before._take_report(report(applied=0, views=[told, run_view("gone")], groups=[group_view()]))
    before.last_views.keep(0, before.fleet)
    before.log.close()

    class Restarted(Daemon):
        """Knows one of them still, as the log's last segment would say."""

        def _recall(self) -> None:
            introduce(self, "a")
            super()._recall()

    after = Restarted(settings)
    [run] = after.fleet.runs(1100.0)
    assert (run["run"], run["step"], math.isnan(run["loss"])) == ("a", 200, True)
    assert after.fleet.group("g", 1100.0)[0]["version"] == 3
    after._told = 10
    after._take_report(report(applied=5, views=[{**run_view("a"), "samples": 40, "step": 160}]))
    assert after.fleet.runs(1100.0)[0]["step"] == 200
    after.log.close()


@pytest.mark.parametrize("change", ["settings", "offset", "damage"])
def test_what_another_daemon_told_or_of_another_log_is_not_shown(tmp_path: Path, change: str):
    fleet = Fleet(at)
    fleet.update([run_view("a")])
    store = SnapshotStore(tmp_path / "views", OsDisk())
    kept = LastViews(store, "this one")
    kept.keep(7, fleet)
    assert [view["run"] for view in (kept.recall(7) or pytest.fail("nothing kept")).runs] == ["a"]
    if change == "damage":
        [file] = (tmp_path / "views").iterdir()
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert (
        LastViews(store, "another" if change == "settings" else "this one").recall(6 if change == "offset" else 7)
        is None
    )


def test_what_is_told_of_a_group_is_kept_though_no_record_came_since(tmp_path: Path):
    """As a rule its paths are compared after the last record of its runs."""
    fleet = Fleet(at)
    fleet.update([run_view("a")])
    kept = LastViews(SnapshotStore(tmp_path / "views", OsDisk()), "this one")
    kept.keep(7, fleet)
    [file] = (tmp_path / "views").iterdir()
    written = file.stat().st_ino
    kept.keep(7, fleet)
    assert file.stat().st_ino == written, "nothing is new"
    fleet.update_groups([group_view()])
    kept.keep(7, fleet)
    recalled = kept.recall(7)
    assert recalled is not None
    assert [group["version"] for group in recalled.groups] == [3]


def test_a_disk_that_never_answers_keeps_no_daemon_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    daemon = Daemon(config.load({"data_dir": tmp_path, "engine": "inline"}).settings)
    monkeypatch.setattr(serve, "KEEP_LAST_SECONDS", 0.2)
    answers = threading.Event()

    class Stuck(OsDisk):
        def create(self, path: Path) -> DiskFile:
            answers.wait()
            return super().create(path)

    daemon.last_views = LastViews(SnapshotStore(tmp_path / "views", Stuck()), "this one")

    async def life() -> None:
        running = asyncio.create_task(daemon.run(Address("127.0.0.1", 0), Address("127.0.0.1", 0)))
        await asyncio.to_thread(eventually, lambda: daemon.served)
        os.kill(os.getpid(), signal.SIGTERM)
        await running

    asyncio.run(life())
    answers.set()
    assert "cannot be kept in time" in caplog.text


def test_views_that_cannot_be_kept_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "views").write_text("in the way")
    kept = LastViews(SnapshotStore(tmp_path / "views", OsDisk()), "this one")
    for offset in (1, 2):
        kept.keep(offset, Fleet(at))
    assert len(caplog.records) == 1
    assert "cannot be kept" in caplog.text
