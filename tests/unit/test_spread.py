"""Spread within and between classes: the permutation test against full enumeration, its level, and confounders."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topowatch_monitor.topology.spread import LEVEL, Spread, spread


def every_arrangement(labels: list, strata: list) -> list[tuple]:
    """All different ways to deal the labels within the strata."""
    groups = {stratum: [index for index, other in enumerate(strata) if other == stratum] for stratum in set(strata)}
    ways = [set(itertools.permutations([labels[index] for index in places])) for places in groups.values()]
    found = []
    for dealt in itertools.product(*ways):
        arrangement = [None] * len(labels)
        for places, names in zip(groups.values(), dealt, strict=True):
            for index, name in zip(places, names, strict=True):
                arrangement[index] = name
        found.append(tuple(arrangement))
    return found


def statistic(values: np.ndarray, labels: tuple, strata: list) -> float:
    """Σ size · (mean of the class − what its strata have on average)², in slow loops."""
    average = {stratum: np.mean([v for v, s in zip(values, strata, strict=True) if s == stratum]) for stratum in strata}
    total = 0.0
    for name in sorted(set(labels)):
        members = [index for index, label in enumerate(labels) if label == name]
        total += len(members) * np.mean([values[index] - average[strata[index]] for index in members]) ** 2
    return total


def exact_p(values: np.ndarray, labels: list, strata: list) -> float:
    seen = statistic(values, tuple(labels), strata)
    found = [statistic(values, other, strata) for other in every_arrangement(labels, strata)]
    return float(np.mean(np.array(found) >= seen - 1e-9 * max(1.0, seen)))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("labels", "strata"),
    [
        ("aaaabbbb", "xxxxxxxx"),
        ("aabbccab", "xxxxxxxx"),
        ("aaabbaab", "xxxxxyyy"),
        ("ababcabc", "xxyyyxxx"),
    ],
)
def test_the_p_value_is_that_of_all_arrangements_within_the_strata(labels, strata, seed):
    """Random arrangements estimate the share; the standard error of 9,999 bounds how far they may be off."""
    values = np.random.default_rng(seed).standard_normal(8)
    if seed == 5:
        values = np.round(values)  # ties count
    exact = exact_p(values, list(labels), list(strata))
    found = spread(values, list(labels), list(strata))
    assert found.p_value == pytest.approx(exact, abs=4.5 * np.sqrt(exact * (1 - exact) / 9999) + 2e-4)
    assert found.verdict == ("difference" if found.p_value < LEVEL else "no difference")


@pytest.mark.parametrize("strata", ["x" * 16, "xxxxxxxxyyyyyyyy"])
@pytest.mark.parametrize("kind", ["normal", "heavy", "ties"])
def test_without_a_difference_small_p_values_are_no_more_frequent_than_they_say(kind, strata):
    """Classes that have nothing to do with the values: P(p ≤ a) ≤ a, up to three standard errors of 600 groups."""
    rng = np.random.default_rng(1)
    labels, found = [0] * 6 + [1] * 6 + [2] * 4, []
    offset = np.where(np.array(list(strata)) == "y", 5.0, 0.0)
    for number in range(600):
        values = {
            "normal": rng.standard_normal(16),
            "heavy": rng.standard_cauchy(16),
            "ties": rng.integers(0, 2, 16).astype(float),
        }[kind] + offset
        found.append(spread(values, rng.permutation(labels).tolist(), list(strata), permutations=99, seed=number))
    p_values = np.array([one.p_value for one in found])
    for level in (0.01, 0.05, 0.1, 0.25, 0.5):
        assert np.mean(p_values <= level) <= level + 3 * np.sqrt(level * (1 - level) / 600)
    if kind == "normal":
        assert np.mean(p_values <= 0.5) > 0.4, "the test would have no power"


def test_a_setting_that_explains_all_makes_no_difference_between_classes_that_follow_it():
    """A learning rate decides the result and mostly the class: told apart always, in strata only by chance."""
    rates, verdicts = np.repeat([0, 1], 20), []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = np.where(rng.random(40) < 0.9, rates, 1 - rates).tolist()
        values = rates + 0.05 * rng.standard_normal(40)
        assert spread(values, labels, [0] * 40, permutations=99).verdict == "difference"
        verdicts.append(spread(values, labels, rates.tolist(), permutations=99).verdict)
    assert verdicts.count("difference") <= 200 * LEVEL + 3 * np.sqrt(200 * LEVEL * (1 - LEVEL))
    assert verdicts.count("no difference") > 150


@pytest.mark.parametrize("seed", range(5))
def test_a_difference_that_a_louder_setting_hides_is_found_within_the_strata(seed):
    rng = np.random.default_rng(seed)
    rates = np.repeat([0, 1], 20)
    labels = np.tile([0, 1], 20)
    values = 10.0 * rates + 0.2 * labels + 0.05 * rng.standard_normal(40)
    assert spread(values, labels.tolist(), [0] * 40).verdict == "no difference"
    assert spread(values, labels.tolist(), rates.tolist()).verdict == "difference"


def test_within_and_between_are_standard_deviations_about_the_means():
    found = spread([1.0, 3.0, 10.0, 10.0, 16.0], list("aabbb"), ["x"] * 5, permutations=9)
    assert found.within == pytest.approx(np.sqrt((1 + 1 + 4 + 4 + 16) / 5))
    assert found.between == pytest.approx(np.sqrt((2 * (2 - 8) ** 2 + 3 * (12 - 8) ** 2) / 5))


@settings(max_examples=60, deadline=None)
@given(
    runs=st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 2), st.integers(0, 1)), max_size=12),
    factor=st.sampled_from([-3.0, 0.25, 1e6]),
    shift=st.integers(-100, 100),
)
def test_unit_origin_and_names_do_not_matter_and_the_seed_decides(runs, factor, shift):
    values = np.array([value for value, _, _ in runs], dtype=float)
    labels, strata = [label for _, label, _ in runs], [stratum for _, _, stratum in runs]
    plain = spread(values, labels, strata, permutations=49)
    assert plain == spread(values, labels, strata, permutations=49)
    other = spread(
        factor * (values + shift), [f"c{label}" for label in labels], [(s,) for s in strata], permutations=49
    )
    assert (other.p_value, other.verdict) == (plain.p_value, plain.verdict)
    if plain.within is not None:
        rounding = 1e-12 * abs(factor) * np.abs(values + shift).max() + 1e-12
        assert other.within == pytest.approx(abs(factor) * plain.within, rel=1e-6, abs=rounding)
        assert other.between == pytest.approx(abs(factor) * plain.between, rel=1e-6, abs=rounding)


@pytest.mark.parametrize(
    ("values", "labels", "strata", "reason"),
    [
        ([], [], [], "no run with a result"),
        ([1.0], ["a"], ["x"], "one class"),
        ([1.0, 2.0], ["a", "a"], ["x", "x"], "one class"),
        ([1.0, 2.0, 3.0, 9.0], list("aabb"), list("xxxx"), "only 6 ways: at least 20"),
        ([1.0] * 10 + [2.0] * 10, list("a" * 10 + "b" * 10), list("x" * 10 + "y" * 10), "only 1 ways"),
    ],
)
def test_with_too_little_to_compare_nothing_is_said_and_why(values, labels, strata, reason):
    found = spread(values, labels, strata)
    assert found.verdict == "abstained"
    assert found.p_value is None
    assert reason in found.reason


def test_the_arrangement_that_is_seen_counts_so_that_no_p_value_is_zero():
    found = spread(np.arange(40.0), [0] * 20 + [1] * 20, ["x"] * 40, permutations=99)
    assert found.p_value == 1 / 100


def test_twenty_arrangements_are_enough_to_speak():
    found = spread([1.0, 2.0, 3.0, 9.0, 10.0, 11.0], list("aaabbb"), ["x"] * 6)
    assert isinstance(found, Spread)
    assert found.p_value == pytest.approx(2 / 20, abs=0.015)
    assert found.verdict == "no difference"


@pytest.mark.parametrize(
    ("values", "labels", "strata", "message"),
    [
        ([1.0, 2.0], ["a"], ["x", "x"], "not 2, 1, 2"),
        ([1.0, np.nan], ["a", "b"], ["x", "x"], "leave out runs without a result"),
        ([[1.0, 2.0]], ["a"], ["x"], "a value, a class and a stratum a run"),
    ],
)
def test_bad_input_is_refused_in_words(values, labels, strata, message):
    with pytest.raises(ValueError, match=message):
        spread(values, labels, strata)


def test_one_huge_result_is_no_difference() -> None:
    """Its square would not be a number any more."""
    values = np.append(np.random.default_rng(0).standard_normal(19), 1e200)
    found = spread(values, [0, 1] * 10, [0] * 20)
    assert np.isfinite([found.within, found.between]).all()
    assert found.verdict == "no difference"
