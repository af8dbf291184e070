"""The fleet: engine's views and ingest's counts as one."""

from __future__ import annotations

from typing import Any

import pytest

from group_views import group_view, path_class
from topowatch_monitor.engine.view import at
from topowatch_monitor.export.fleet import (
    AmbiguousGroupError,
    AmbiguousRunError,
    Fleet,
    GroupNotFoundError,
    IngestSummary,
    RunNotFoundError,
    unseen,
    verdict,
)

NOW = 1_000_000.0


def summary(run: str = "a", group: str = "g", **changes: Any) -> IngestSummary:
    return IngestSummary(
        **{"tenant": "", "group": group, "run": run, "samples": 10, "last_received_at": NOW, **changes}
    )


def view(run: str = "a", group: str = "g", **changes: Any) -> Any:
    return {**unseen(summary(run, group)), "samples": 10, "step": 40, **changes}


def flag(detector: str = "loss_rise", severity: str = "critical") -> dict[str, Any]:
    return {"detector": detector, "severity": severity, "since_step": 3, "reason": "because"}


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(at, lost_seconds=900, ended_series_seconds=300)


def test_a_run_that_only_ingest_knows_is_listed_as_starting(fleet: Fleet):
    fleet.update_ingest([summary(samples=3, labels={"seed": "1"})])
    [run] = fleet.runs(NOW)
    assert (run["verdict"], run["samples"], run["analysed"], run["step"]) == ("starting", 3, 0, None)
    assert run["labels"] == {"seed": "1"}
    assert run["path_class"]["abstained"]
    assert run["forecast"]["abstained"]


def test_ingest_counts_what_is_stored_and_the_engine_what_is_analysed(fleet: Fleet):
    fleet.update([view(samples=7, dropped=2)])
    fleet.update_ingest([summary(samples=12, rejected=1, dropped=5)])
    [run] = fleet.runs(NOW)
    assert (run["samples"], run["analysed"], run["rejected"], run["dropped"]) == (12, 7, 1, 5)


def test_what_was_dropped_is_what_ingest_says(fleet: Fleet):
    """Ingest knows what came through after all, or was reported twice; the engine may have counted it."""
    fleet.update([view(dropped=9)])
    assert fleet.runs(NOW)[0]["dropped"] == 9
    fleet.update_ingest([summary(dropped=5)])
    assert fleet.runs(NOW)[0]["dropped"] == 5


def test_a_lagging_engine_does_not_make_a_run_look_silent(fleet: Fleet):
    """Samples that are stored but not analysed yet count as signs of life."""
    fleet.update([view(last_received_at=NOW - 2000)])
    assert fleet.runs(NOW)[0]["state"] == "lost"
    fleet.update_ingest([summary(last_received_at=NOW - 1)])
    [run] = fleet.runs(NOW)
    assert run["state"] == "live"
    assert run["flags"] == []
    assert run["last_received_at"] == NOW - 1


@pytest.mark.parametrize("ended", [True, False])
def test_whoever_has_seen_more_says_whether_a_run_has_ended(fleet: Fleet, ended: bool):
    fleet.update([view(state="live" if ended else "ended", last_received_at=NOW - 5)])
    fleet.update_ingest([summary(last_received_at=NOW, ended=ended)])
    assert fleet.runs(NOW)[0]["state"] == ("ended" if ended else "live")
    fleet.update([view(state="ended", last_received_at=NOW)])
    assert fleet.runs(NOW)[0]["state"] == "ended"


def test_what_the_engine_handed_over_is_not_changed(fleet: Fleet):
    handed = view(samples=1)
    fleet.update([handed])
    fleet.update_ingest([summary(samples=9)])
    fleet.runs(NOW + 5000)
    assert handed == view(samples=1)


def test_runs_come_in_order_and_by_group(fleet: Fleet):
    fleet.update([view("b", "g2"), view("a", "g2"), view("z", "g1")])
    assert [(run["group"], run["run"]) for run in fleet.runs(NOW)] == [("g1", "z"), ("g2", "a"), ("g2", "b")]
    assert [run["run"] for run in fleet.runs(NOW, group="g2")] == ["a", "b"]


def test_a_name_in_several_groups_needs_its_group(fleet: Fleet):
    fleet.update([view("a", "g1"), view("a", "g2")])
    with pytest.raises(AmbiguousRunError) as caught:
        fleet.run("a", NOW)
    assert (caught.value.asked, caught.value.names) == ("group", ["g1", "g2"])
    assert fleet.run("a", NOW, "g2")["group"] == "g2"
    with pytest.raises(RunNotFoundError, match="'b' in group 'g1'"):
        fleet.run("b", NOW, "g1")


def test_a_group_is_what_the_engine_said_last_with_its_runs(fleet: Fleet):
    fleet.update([view("b"), view("a"), view("c", "other")])
    fleet.update_groups([group_view(version=1)])
    fleet.update_groups([group_view(version=2)])
    told, members = fleet.group("g", NOW)
    assert told["version"] == 2
    assert [run["run"] for run in members] == ["a", "b"]
    assert list(fleet.groups()) == [("", "g")]
    assert fleet.groups("other") == {}


def test_a_group_that_the_engine_has_told_nothing_of_abstains(fleet: Fleet):
    fleet.update([view("a"), view("b", state="ended")])
    told, _ = fleet.group("g", NOW)
    assert (told["version"], told["live"], told["ended"], told["abstained"]) == (0, 1, 1, True)
    assert "not been computed yet" in told["reason"]


def test_a_group_without_runs_is_not_there(fleet: Fleet):
    fleet.update_groups([group_view()])
    with pytest.raises(GroupNotFoundError, match="'g'"):
        fleet.group("g", NOW)
    fleet.update([view()])
    with pytest.raises(GroupNotFoundError, match="of tenant 'physics'"):
        fleet.group("g", NOW, "physics")


def test_a_group_of_several_tenants_needs_its_tenant(fleet: Fleet):
    fleet.update([view(), view(tenant="physics")])
    fleet.update_groups([group_view(version=1), group_view(tenant="physics", version=2)])
    with pytest.raises(AmbiguousGroupError) as caught:
        fleet.group("g", NOW)
    assert caught.value.tenants == ["", "physics"]
    assert fleet.group("g", NOW, "")[0]["version"] == 1
    told, members = fleet.group("g", NOW, "physics")
    assert told["version"] == 2
    assert [run["tenant"] for run in members] == ["physics"]


def test_series_of_an_ended_run_vanish_after_a_while(fleet: Fleet):
    fleet.update([view("done", state="ended", last_received_at=NOW), view("on", last_received_at=NOW + 300)])
    assert [run["run"] for run in fleet.exported(NOW + 300)] == ["done", "on"]
    assert [run["run"] for run in fleet.exported(NOW + 301)] == ["on"]
    assert [run["run"] for run in fleet.runs(NOW + 301)] == ["done", "on"]


def test_series_of_a_lost_run_stay_long_enough_to_be_alerted_on(fleet: Fleet):
    fleet.update([view("gone", last_received_at=NOW)])
    [run] = fleet.exported(NOW + 1100)
    assert run["state"] == "lost"
    assert fleet.exported(NOW + 1201) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "healthy"),
        ({"step": None}, "starting"),
        ({"flags": [flag(severity="warning")]}, "warning"),
        ({"flags": [flag(severity="warning"), flag()]}, "unstable"),
        ({"minimum_unstable": True}, "unstable"),
        ({"state": "lost", "flags": [flag("stalled_run", "warning")]}, "lost"),
        ({"state": "lost", "minimum_unstable": True}, "unstable"),
        ({"state": "ended"}, "healthy"),
        ({"path_class": path_class(1, outlier=True)}, "warning"),
        ({"path_class": path_class(1, outlier=True), "step": None}, "warning"),
        ({"path_class": path_class(1, outlier=True), "state": "lost"}, "lost"),
        ({"path_class": path_class(0)}, "healthy"),
    ],
)
def test_verdict_is_the_gravest_that_holds(changes: dict[str, Any], expected: str):
    assert verdict(view(**changes)) == expected
