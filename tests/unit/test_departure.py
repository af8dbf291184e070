"""A departure is a loss that rises by half a nat and stays; the score is a share of moments that ended in one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from topowatch_monitor.detect.departure import HEIGHT, LEVEL, RETURN, SETTLED, SMOOTH, departure, standing
from topowatch_monitor.detect.instability import EVIDENCE, PROBABILITIES, WEIGHTS, evidence, instability_score

LOSSES = arrays(np.float64, st.integers(0, 120), elements=st.floats(0, 5) | st.just(math.nan))
LEVELS = st.dictionaries(st.sampled_from([*WEIGHTS, "non_finite_loss"]), st.floats(0, 5) | st.just(math.inf))


def slowly(losses):
    """Say the same as `departure`, word by word."""
    for step in range(len(losses)):
        if not np.isfinite(losses[step]):
            return step
        known = losses[: next((at for at in range(len(losses)) if not np.isfinite(losses[at])), len(losses))]
        before = known[: max(1, step - SMOOTH + 1)][-LEVEL:]
        bar = np.median(before) + HEIGHT
        later = range(step + SETTLED, min(step + RETURN + 1, len(known)))
        back = any(np.mean(known[end - SETTLED + 1 : end + 1]) <= bar for end in later)
        if step and np.mean(known[max(0, step - SMOOTH + 1) : step + 1]) > bar and not back:
            return step
    return None


@given(LOSSES)
def test_it_is_what_the_words_say(losses):
    assert departure(losses) == slowly(losses)


@pytest.mark.parametrize(("length", "departs"), [(150, False), (215, True)])
def test_a_hill_shorter_than_two_hundred_steps_is_no_departure(length, departs):
    losses = np.concatenate([np.full(300, 1.0), np.full(length, 2.0), np.full(300, 1.0)])
    assert (departure(losses) is not None) == departs


def test_a_loss_that_is_not_finite_has_departed_there():
    assert departure(np.array([1.0] * 50 + [math.nan] + [1.0] * 50)) == 50


def test_one_huge_loss_hides_no_later_departure():
    losses = np.concatenate([np.full(300, 0.1), [1e30], np.full(300, 0.1), np.full(300, 3.0)])
    found = departure(losses)
    assert found is not None
    assert 601 <= found <= 605


@given(LEVELS)
def test_a_score_is_a_share_and_grows_with_every_level(levels):
    score = instability_score(levels)
    assert 0 <= score <= 1
    for name in levels:
        assert instability_score({**levels, name: levels[name] + 0.5}) >= score


def test_without_a_finite_loss_the_score_is_one():
    assert instability_score({"non_finite_loss": 1.0}) == 1.0


def test_no_evidence_gives_the_lowest_share_and_the_knots_rise():
    assert instability_score({}) == PROBABILITIES[0]
    assert evidence({}) == 0.0 <= EVIDENCE[0]
    assert list(EVIDENCE) == sorted(EVIDENCE)
    assert list(PROBABILITIES) == sorted(PROBABILITIES)


def test_a_loss_stands_too_high_at_its_fifth_step_whether_it_comes_back_or_not():
    losses = np.concatenate([np.full(300, 1.0), np.full(4, 3.0), np.full(50, 1.0), np.full(5, 1.6), np.full(300, 1.0)])
    assert standing(losses) == 300 + 4 + 50 + 4
    assert standing(losses, 359) is None
    assert departure(losses) is None
    assert standing(np.append(np.ones(20), np.full(5, np.nan))) == 24
    assert standing(np.full(400, 1.0) + 0.4 * (np.arange(400) > 300)) is None
