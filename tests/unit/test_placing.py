"""The places of live runs on the atlas of their siblings, as a shard finds and tells them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from group_runs import DIGEST, GROUP, TENANT, ended, handed_out, named, opened, two_ways, went, whole
from topowatch_monitor.engine.group_fit import OTHER_PROBES, OTHER_SKETCH, GroupFit, fit_group
from topowatch_monitor.engine.group_forecast import nothing
from topowatch_monitor.engine.path_state import PathSettings
from topowatch_monitor.engine.placing import NO_PREDICTIONS, OUTSIDE_FOR, POINTS_AT_ONCE, TO_COME
from topowatch_monitor.engine.shard import ApplyResult, Part, Shard
from topowatch_monitor.engine.told import RunSettings
from topowatch_monitor.topology import PathTracker

if TYPE_CHECKING:
    from group_runs import Records

KEY = TENANT, GROUP
SMALL = RunSettings(path=PathSettings(window=64, h1_every=100, h1_landmarks=8, shape_every=500))
OVER, UNDER = two_ways(16, 5)
SETTLED = named(OVER[:13], UNDER[:3])
LIVE, OTHER_WAY = OVER[14], UNDER[4]


@cache
def fit() -> GroupFit:
    found = fit_group({}, 0, handed_out(SETTLED))
    assert isinstance(found, GroupFit)
    assert found.atlas is not None
    return found


class Carrier:
    """A shard, fed as the dispatcher feeds it, that remembers what it told last."""

    def __init__(self) -> None:
        self.shard = Shard(SMALL)
        assert self.shard.load(0, 1, 0, None)
        self.views: dict[str, Any] = {}
        self.offset = 0

    def apply(self, records: Records = ()) -> ApplyResult:
        numbered = [(self.offset + number, *record) for number, record in enumerate(records)]
        result = self.shard.apply([Part(0, 1, self.offset, self.offset + len(records), numbered)])
        assert not result.refused
        self.offset += len(records)
        return self.take(result)

    def publish(self, found: GroupFit | None = None, **outside: int) -> ApplyResult:
        return self.take(self.shard.publish(KEY, found or fit(), outside))

    def take(self, result: ApplyResult) -> ApplyResult:
        self.views |= {view["run"]: view for view in result.views}
        return result

    def settle(self) -> None:
        while self.apply().waiting:
            pass

    def place(self, run: str = "live") -> dict[str, Any]:
        return self.views[run]["path_class"]


def after(*steps: Any) -> Carrier:
    """A carrier that took records, published the fit for `fit`, and then found every place."""
    carrier = Carrier()
    for step in steps:
        if step is fit:
            carrier.publish()
        else:
            carrier.apply(step)
    carrier.settle()
    return carrier


@pytest.mark.parametrize("path", [LIVE, OTHER_WAY, LIVE[:9], OTHER_WAY[::-1]], ids=["over", "under", "early", "back"])
def test_a_run_followed_sample_by_sample_has_the_place_of_one_followed_from_its_whole_path(path):
    steady = Carrier()
    steady.publish()
    for record in opened("live") + went("live", path):
        steady.apply([record])
    at_once, afterwards = (
        after(fit, opened("live") + went("live", path)),
        after(opened("live") + went("live", path), fit),
    )
    assert steady.place() == at_once.place() == afterwards.place()
    tracker = PathTracker(fit().atlas)
    for point in path:
        tracker.add(point)
    assert steady.place()["compatible"] == sorted(fit().names[label] for label in tracker.compatible())
    assert steady.place()["distance"] == tracker.distance
    assert steady.place()["p_value"] == tracker.p_value


def test_a_live_run_is_compatible_with_the_classes_of_its_siblings_until_they_part():
    carrier = after(fit, opened("live") + went("live", OTHER_WAY[:1]))
    names = sorted(fit().names)
    assert carrier.place()["compatible"] == names == [0, 1]
    assert carrier.place()["label"] is None
    assert carrier.place()["provisional"]
    carrier.apply(went("live", OTHER_WAY[1:], start=1))
    assert carrier.place()["compatible"] == [1]
    assert carrier.place()["label"] == 1
    assert carrier.place()["p_value"] < 1e-4
    assert not carrier.place()["outlier"]


def test_a_run_that_goes_back_to_a_checkpoint_is_followed_anew_from_its_beginning():
    """It went under the hole, then back to its fourth step and over it: only the latter counts."""
    went_under = opened("live") + went("live", OTHER_WAY)
    back = opened("live", incarnation=2, start=4) + went("live", LIVE[4:], start=4, incarnation=2)
    carrier = after(fit, went_under, back)
    straight = after(fit, opened("live") + went("live", [*OTHER_WAY[:4], *LIVE[4:]]))
    assert carrier.place() == straight.place()
    assert carrier.place()["label"] == 0


def test_a_run_that_goes_back_waits_for_its_turn_and_says_so():
    carrier = after(fit, opened("live") + went("live", OTHER_WAY))
    carrier.shard._placing.go_on = lambda find: []  # type: ignore[method-assign] - its turn does not come
    result = carrier.apply(opened("live", incarnation=2, start=4))
    assert result.waiting == 1
    assert carrier.place()["reason"] == TO_COME
    assert carrier.place()["abstained"]


@pytest.mark.parametrize("found", [True, False], ids=["followed", "waiting"])
def test_a_group_that_is_forgotten_leaves_a_run_that_came_since_as_if_nothing_had_been_published(found):
    carrier = Carrier()
    carrier.apply(opened("live") + went("live", LIVE))
    before = carrier.views["live"]
    carrier.publish()
    carrier.take(carrier.shard.publish_forecast(KEY, nothing("none of its siblings tells")))
    if found:
        carrier.settle()
        assert carrier.place()["provisional"]
    assert carrier.views["live"]["forecast"]["reason"] == "none of its siblings tells"
    result = carrier.take(carrier.shard.forget_group(KEY))
    assert result.waiting == 0
    assert carrier.views["live"] == before
    assert not any(vars(carrier.shard._placing).values())
    assert not any(vars(carrier.shard._forecasting).values())
    carrier.apply(went("live", LIVE[:1], start=len(LIVE)))
    assert carrier.place() == before["path_class"]


def test_a_late_sample_leads_to_the_place_of_the_path_with_it():
    carrier = after(fit, opened("live") + went("live", OTHER_WAY[:20]) + went("live", OTHER_WAY[21:], start=21))
    carrier.apply(went("live", OTHER_WAY[20:21], start=20))
    carrier.settle()
    assert carrier.place() == after(fit, opened("live") + went("live", OTHER_WAY)).place()


def test_runs_take_turns_so_that_no_call_places_more_than_a_few_points():
    carrier = Carrier()
    records = [record for number in range(20) for record in opened(f"r{number:02d}") + went(f"r{number:02d}", LIVE)]
    carrier.apply(records)
    result = carrier.publish()
    assert result.waiting == 20
    assert carrier.place("r00")["reason"] == TO_COME
    a_turn = -(-POINTS_AT_ONCE // len(LIVE))
    assert 1 < a_turn < 20
    before = 20
    while before:
        result = carrier.apply()
        assert before - result.waiting == min(before, a_turn) == len(result.views)
        before = result.waiting
    assert {carrier.place(f"r{number:02d}")["label"] for number in range(20)} == {0}


def test_a_run_that_waits_for_a_new_refit_is_followed_on_the_one_before():
    carrier = after(fit, opened("live") + went("live", OTHER_WAY[:30]))
    carrier.shard._placing.go_on = lambda find: []  # type: ignore[method-assign] - its turn does not come
    carrier.publish()
    carrier.apply(went("live", OTHER_WAY[30:], start=30))
    assert carrier.place() == after(fit, opened("live") + went("live", OTHER_WAY)).place()


def test_ended_runs_have_the_places_of_the_refit():
    carrier = Carrier()
    carrier.apply(whole(SETTLED))
    assert carrier.publish().waiting == 0
    told = {run: carrier.place(run) for run in SETTLED}
    assert {run: place["label"] for run, place in told.items()} == {run: int(run[0] == "b") for run in SETTLED}
    assert {run for run, place in told.items() if place["outlier"]} == {"b00", "b01", "b02"}
    assert not any(place["provisional"] or place["abstained"] for place in told.values())
    assert told["b00"]["compatible"] == [1]
    assert told["b00"]["p_value"] < 1e-4


def test_a_run_that_ended_after_the_refit_stands_where_it_was_followed_to():
    carrier = after(fit, opened("live") + went("live", OTHER_WAY) + ended("live"))
    assert (carrier.place()["label"], carrier.place()["provisional"]) == (1, True)


def test_an_ended_run_that_goes_on_is_followed_again():
    carrier = after(whole({"a00": SETTLED["a00"]}), fit)
    assert not carrier.place("a00")["provisional"]
    carrier.apply(opened("a00", incarnation=2, start=3) + went("a00", OTHER_WAY[3:], start=3, incarnation=2))
    carrier.settle()
    assert (carrier.place("a00")["label"], carrier.place("a00")["provisional"]) == (1, True)


def test_far_from_its_siblings_a_run_is_off_the_map_and_the_distance_is_told():
    carrier = after(fit, opened("live") + went("live", [*LIVE[:10], LIVE[10] + 3.0]))
    place = carrier.place()
    assert place["distance"] > 1.0
    assert place["compatible"] == []
    assert place["label"] is None
    assert place["reason"].startswith("it is off the map of its siblings' paths, by ")
    assert place["p_value"] == 1.0
    carrier.apply(went("live", LIVE[11:], start=11))
    assert carrier.place()["distance"] == 0.0


def test_outside_for_three_evaluations_makes_an_outlier():
    carrier = after(fit, opened("live") + went("live", [LIVE[0] + 3.0]))
    for count in range(1, OUTSIDE_FOR + 2):
        result = carrier.take(carrier.shard.stand(KEY, {"live": count}))
        assert [view["run"] for view in result.views] == ["live"]
        assert carrier.place()["outside"] == count
        assert carrier.place()["outlier"] == (count >= OUTSIDE_FOR)
    assert carrier.take(carrier.shard.stand(KEY, {"live": count})).views == []
    carrier.take(carrier.shard.stand(KEY, {}))
    assert (carrier.place()["outside"], carrier.place()["outlier"]) == (0, False)


def test_how_long_runs_were_outside_comes_with_a_refit_as_well():
    carrier = after(opened("live") + went("live", [LIVE[0] + 3.0]))
    carrier.publish(live=OUTSIDE_FOR)
    carrier.settle()
    assert carrier.place()["outlier"]


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (opened("live", digest=b"\x02" * 32) + went("live", LIVE), OTHER_PROBES),
        (opened("live") + went("live", LIVE[:, :5]), OTHER_SKETCH),
        (opened("live"), NO_PREDICTIONS),
    ],
    ids=["probes", "sketch", "no predictions"],
)
def test_a_run_that_cannot_be_compared_says_why(records, reason):
    carrier = after(fit, records)
    assert carrier.place()["reason"] == reason
    assert carrier.place()["abstained"]
    assert carrier.apply().waiting == 0


def test_a_run_that_changes_its_probes_leaves_the_atlas():
    carrier = after(fit, opened("live") + went("live", LIVE))
    assert carrier.place()["label"] == 0
    carrier.apply(opened("live", incarnation=2, start=5, digest=b"\x02" * 32))
    assert carrier.place()["reason"] == NO_PREDICTIONS
    carrier.apply(went("live", LIVE[5:], start=5, incarnation=2))
    assert carrier.place()["reason"] == OTHER_PROBES


def test_left_out_runs_and_those_of_a_group_that_is_not_told_apart_say_why():
    strange = handed_out({"odd": LIVE}, digest="ff" * 32)
    found = fit_group({}, 0, handed_out(named(OVER[:13])), strange)
    assert isinstance(found, GroupFit)
    assert found.abstained
    carrier = Carrier()
    carrier.apply(whole(named(OVER[:13])) + opened("odd", digest=b"\xff" * 32) + went("odd", LIVE) + ended("odd"))
    carrier.apply(opened("live") + went("live", LIVE))
    assert carrier.publish(found).waiting == 0
    assert carrier.place("odd")["reason"] == OTHER_PROBES
    assert carrier.place("live")["reason"] == carrier.place("a00")["reason"] == found.reason
    assert (carrier.place("a00")["label"], carrier.place("live")["label"]) == (0, None)


def test_what_goes_wrong_with_a_place_costs_neither_the_shard_nor_the_sample(monkeypatch, caplog):
    def fail(tracker: PathTracker, point: Any) -> None:
        raise ZeroDivisionError("of this one point")

    carrier = after(fit, opened("live") + went("live", LIVE[:5]))
    monkeypatch.setattr(PathTracker, "add", fail)
    carrier.apply(went("live", LIVE[5:8], start=5))
    assert carrier.views["live"]["samples"] == 8
    assert "cannot be followed (ZeroDivisionError: of this one point)" in carrier.place()["reason"]
    assert len(caplog.records) == 1


def test_a_shard_hands_out_ended_runs_with_a_path_and_as_many_points_as_it_is_asked_for():
    carrier = Carrier()
    carrier.apply(whole({"a": LIVE}, accuracy=0.5) + opened("live") + went("live", LIVE))
    carrier.apply(opened("no-path") + ended("no-path"))
    [run] = carrier.shard.ended_runs(KEY, 256)
    assert (run.run, run.samples, run.digest, run.results) == ("a", len(LIVE), DIGEST.hex(), {"accuracy": 0.5})
    np.testing.assert_array_equal(run.points, LIVE)
    [few] = carrier.shard.ended_runs(KEY, 8)
    assert 2 <= len(few.points) <= 8
    np.testing.assert_array_equal(few.points[[0, -1]], LIVE[[0, -1]])
    assert few.samples == len(LIVE)
    assert carrier.shard.ended_runs((TENANT, "other"), 256) == []
