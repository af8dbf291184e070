"""A refit of a group: which runs are compared, what their classes are called, and what is told of them."""

from __future__ import annotations

import json
from dataclasses import fields
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import is_valid_linkage

from group_runs import DIGEST, handed_out, named, two_ways
from topowatch_monitor.engine.group_fit import (
    OTHER_PROBES,
    OTHER_SKETCH,
    UNMOVED,
    GroupFit,
    Refused,
    class_names,
    fit_group,
)
from topowatch_monitor.engine.group_spread import NO_METRIC
from topowatch_monitor.engine.group_view import GroupView

OVER, UNDER = two_ways(24, 3)
OUTLIERS = ["b00", "b01", "b02"]


def fit_of(*found: Any, known: dict[str, int] | None = None, free: int = 0) -> GroupFit:
    fit = fit_group(known or {}, free, *found)
    assert isinstance(fit, GroupFit)
    return fit


@cache
def planted() -> GroupFit:
    """13 runs over the hole, three under it, handed out by two carriers."""
    runs = handed_out(named(OVER[:13], UNDER[:3]))
    return fit_of(runs[::2], runs[1::2])


def test_runs_that_went_the_other_way_are_the_outliers_and_have_a_class_of_their_own():
    fit = planted()
    assert not fit.abstained
    majority, other = fit.classes
    assert (majority["majority"], len(majority["members"])) == (True, 13)
    assert (other["majority"], other["members"]) == (False, OUTLIERS)
    assert [run for run, place in fit.places.items() if place.outlier] == OUTLIERS
    assert fit.places["b00"].p_value < 1e-4
    assert fit.places["a00"].p_value == 1.0
    assert {run: place.label for run, place in fit.places.items()} == {
        run: each["label"] for each in fit.classes for run in each["members"]
    }
    assert fit.runs == sorted(fit.places) == sorted(fit.seen)
    assert fit.seen["b00"] == len(UNDER[0])
    assert fit.atlas is not None
    assert fit.digest == DIGEST.hex()


def test_the_order_in_which_carriers_hand_runs_out_changes_nothing():
    runs = handed_out(named(OVER[:13], UNDER[:3]))
    again = fit_of(runs[7:], [], runs[:7])
    assert (again.places, again.classes, again.merges) == (planted().places, planted().classes, planted().merges)


def test_what_goes_into_a_groups_view_is_plain():
    shared = GroupView.__annotations__.keys() & {field.name for field in fields(GroupFit)}
    told = {name: getattr(planted(), name) for name in shared}
    assert json.loads(json.dumps(told)) == told


def test_merges_are_a_linkage_with_rising_heights_in_which_the_outliers_come_last():
    merges = np.array(planted().merges)
    assert merges.shape == (15, 3)
    assert (np.diff(merges[:, 2]) >= 0).all()
    sizes = [1.0] * 16
    for first, second, _ in merges:
        sizes.append(sizes[int(first)] + sizes[int(second)])
    finite = np.where(np.isinf(merges), 1e6, merges)
    assert is_valid_linkage(np.column_stack([finite, sizes[16:]]))
    assert {sizes[int(number)] for number in merges[-1, :2]} == {3.0, 13.0}
    assert merges[-1, 2] > merges[-2, 2]


def test_classes_keep_their_names_while_runs_join_and_the_smaller_class_becomes_the_larger_one():
    """Classes are numbered by size, names are not: those of the members count."""
    first = fit_of(handed_out(named(OVER[:13], UNDER[:3])))
    known = {run: place.label for run, place in first.places.items()}
    assert known["a00"] == 0
    assert known["b02"] == 1
    turned = handed_out({f"b{number:02d}": path for number, path in enumerate(below(16))})
    second = fit_of(handed_out(named(OVER[:13])), turned, known=known, free=2)
    assert not second.abstained
    assert second.places["a00"].label == 0
    assert second.places["b00"].label == 1
    assert second.names == [1, 0]


def below(count: int) -> list[Any]:
    """As many paths under the hole."""
    rng = np.random.default_rng(0)
    return [UNDER[number % len(UNDER)] + 0.01 * rng.standard_normal(8).astype(np.float32) for number in range(count)]


def test_while_the_answer_is_to_abstain_all_runs_are_of_one_class():
    fit = fit_of(handed_out(named(OVER[:13])), known={"a00": 5}, free=6)
    assert fit.abstained
    assert fit.atlas is None
    assert {place.label for place in fit.places.values()} == {0}
    assert not any(place.outlier for place in fit.places.values())
    assert fit.spread["verdict"] == "abstained"
    assert fit.spread["reason"] == fit.reason
    assert len(fit.merges) == 12


def test_below_twelve_runs_there_is_no_comparison():
    fit = fit_of(handed_out(named(OVER[:11])))
    assert fit.abstained
    assert fit.reason == "11 paths can be compared: classes need at least 12"
    assert (fit.places, fit.runs, fit.merges, fit.best_p) == ({}, [], [], None)
    assert len(fit.seen) == 11


def test_no_run_at_all_is_no_comparison_either():
    assert fit_of([], []).seen == {}


def test_runs_that_cannot_be_compared_are_left_out_and_told_why():
    """The commonest probe set counts, then the commonest sketch among its runs; both may be in the minority overall."""
    strangers = handed_out({"other-probes": OVER[20]}, digest="ff" * 32)
    odd = handed_out({"other-sketch": OVER[21][:, :5], "unmoved": OVER[22][[3, 3, 3]], "one-point": OVER[22][:1]})
    fit = fit_of(strangers, handed_out(named(OVER[:13], UNDER[:3])), odd)
    assert fit.left_out == {
        "other-probes": OTHER_PROBES,
        "other-sketch": OTHER_SKETCH,
        "unmoved": UNMOVED,
        "one-point": UNMOVED,
    }
    assert fit.places == planted().places
    assert fit.seen.keys() == fit.places.keys() | fit.left_out.keys()


def test_of_two_probe_sets_that_are_as_common_the_same_one_counts_whatever_the_order():
    ours, theirs = handed_out(named(OVER[:3])), handed_out({"x": OVER[3], "y": OVER[4], "z": OVER[5]}, digest="00")
    assert fit_of(ours, theirs).digest == fit_of(theirs, ours).digest == "00"


def test_what_is_too_large_is_refused_in_words(monkeypatch):
    monkeypatch.setattr("topowatch_monitor.topology.limits.MAX_NUMBERS", 1000)
    refused = fit_group({}, 0, handed_out(named(OVER[:13])))
    assert isinstance(refused, Refused)
    assert "thin the paths out" in refused.reason


def test_of_too_many_runs_there_is_no_dendrogram(monkeypatch):
    monkeypatch.setattr("topowatch_monitor.engine.group_fit.MOST_MERGED", 15)
    fit = fit_of(handed_out(named(OVER[:13], below(3))))
    assert (fit.merges, len(fit.runs)) == ([], 16)


def test_the_results_of_the_classes_are_compared_within_equal_settings():
    """Those under the hole end worse at either learning rate; a label that tells each run apart is no setting."""
    runs = []
    for number, (run, points) in enumerate({**named(OVER[:13]), **named((), below(4))}.items()):
        worse = 0.1 if run.startswith("b") else 0.0
        labels = {"lr": f"{number % 2}", "host": run, "seed": f"{number % 3}", "model": "cnn"}
        results = {"test_accuracy": 0.9 - worse + 0.001 * (number % 5), "train_loss": 0.1}
        runs += handed_out({run: points}, labels=labels, results=results)
    spread = fit_of(runs).spread
    assert (spread["metric"], spread["strata"], spread["runs"]) == ("test_accuracy", ["lr"], 17)
    assert spread["verdict"] == "difference"
    assert spread["reason"].endswith("not held fixed, being different in every run: host")
    assert spread["between"] > 10 * spread["within"] > 0


def test_without_results_there_is_nothing_to_compare():
    assert planted().spread["reason"] == NO_METRIC


@pytest.mark.parametrize(
    ("members", "known", "free", "names"),
    [
        ([["a", "b"], ["c"]], {}, 0, [0, 1]),
        ([["a", "b"], ["c"]], {"a": 1, "b": 1, "c": 0}, 2, [1, 0]),
        ([["a", "b", "new"], ["c"]], {"a": 7, "b": 7}, 8, [7, 8]),
        ([["a"], ["b"]], {"a": 3, "b": 3}, 4, [3, 4]),
        ([["a", "b", "c"]], {"a": 0, "b": 1, "c": 1}, 2, [1]),
        ([["x"], ["y"]], {"gone": 0}, 1, [1, 2]),
        # The greedy choice, 0 for the first class, would keep 3 + 0 runs; this keeps 2 + 3.
        ([["a", "b", "c", "d", "e"], ["f", "g", "h"]], dict.fromkeys("abcfgh", 0) | dict.fromkeys("de", 1), 2, [1, 0]),
    ],
    ids=["first", "swapped sizes", "joined", "split", "merged", "all gone", "overall best"],
)
def test_names_follow_the_members(members, known, free, names):
    assert class_names(members, known, free) == names


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_as_many_runs_as_possible_keep_their_name_and_no_two_classes_share_one(data):
    """Held against all assignments of old names; a name that is new has never been given before."""
    runs = [str(number) for number in range(data.draw(st.integers(1, 9)))]
    labels = data.draw(st.lists(st.integers(0, 3), min_size=len(runs), max_size=len(runs)))
    members = [[run for run, label in zip(runs, labels, strict=True) if label == each] for each in sorted(set(labels))]
    known = data.draw(st.dictionaries(st.sampled_from(runs), st.integers(0, 3)))
    names = class_names(members, known, free=4)
    assert len(set(names)) == len(names)
    assert set(names) <= {*known.values(), *range(4, 4 + len(members))}

    def kept(naming: Any) -> int:
        return sum(known.get(run) == name for inside, name in zip(members, naming, strict=True) for run in inside)

    pool = [0, 1, 2, 3, *range(10, 10 + len(members))]
    assert kept(names) == max(kept(naming) for naming in permutations(pool, len(members)))
