"""Agreement with siblings, against slow loops, and as a stand-in for accuracy where siblings are mostly right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topowatch_monitor.forecast.consensus import Consensus


@settings(max_examples=40, deadline=None)
@given(runs=st.integers(2, 8), probes=st.integers(1, 12), classes=st.integers(2, 5), seed=st.integers(0, 10_000))
def test_shares_are_those_of_slow_loops(runs: int, probes: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    predictions = rng.integers(0, classes, (runs, probes))
    own = int(rng.integers(runs))
    predicted, confidence = rng.integers(0, classes, probes), rng.random(probes)
    found = Consensus(predictions, classes).agreement(predicted, confidence, own=own)
    others = [row for number, row in enumerate(predictions) if number != own]
    most = [np.bincount([row[probe] for row in others], minlength=classes).argmax() for probe in range(probes)]
    alike = [np.mean([row[probe] == predicted[probe] for row in others]) for probe in range(probes)]
    surest = sorted(range(probes), key=lambda probe: -confidence[probe])[: -(-probes // 2)]
    assert found.with_most == pytest.approx(np.mean([a == b for a, b in zip(most, predicted, strict=True)]))
    assert found.mean == pytest.approx(np.mean(alike))
    assert found.where_sure == pytest.approx(np.mean([alike[probe] for probe in surest]))
    best = others[: max(1, round(len(others) / 4))]
    most = [np.bincount([row[probe] for row in best], minlength=classes).argmax() for probe in range(probes)]
    assert found.with_best == pytest.approx(np.mean([a == b for a, b in zip(most, predicted, strict=True)]))
    assert found.mean_best == pytest.approx(np.mean([np.mean(row == predicted) for row in best]))


def test_agreement_ranks_runs_as_their_accuracy_does() -> None:
    """Siblings err independently: the more often a run is right, the more often it says what most do."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 10, 256)
    rates = np.linspace(0.3, 0.95, 24)
    predictions = np.array([np.where(rng.random(256) < rate, truth, rng.integers(0, 10, 256)) for rate in rates])
    consensus = Consensus(predictions, 10)
    accuracy = (predictions == truth).mean(axis=1)
    agreed = [consensus.agreement(row, np.ones(256), own=own).with_most for own, row in enumerate(predictions)]
    assert np.corrcoef(accuracy, agreed)[0, 1] > 0.98


def test_the_best_siblings_know_better_than_the_many() -> None:
    """Where most make one mistake, agreement with the best still ranks runs as their accuracy does."""
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 10, 256)
    rates = np.linspace(0.9, 0.2, 24)
    alike = np.where(rng.random(256) < 0.5, (truth + 1) % 10, truth)  # what a poor run says, as all poor runs do
    predictions = np.array([np.where(rng.random(256) < rate, truth, alike) for rate in rates])
    consensus = Consensus(predictions, 10)
    accuracy = (predictions == truth).mean(axis=1)
    found = [consensus.agreement(row, np.ones(256), own=own) for own, row in enumerate(predictions)]
    with_best = np.corrcoef(accuracy, [each.with_best for each in found])[0, 1]
    assert with_best > 0.98
    assert with_best > np.corrcoef(accuracy, [each.with_most for each in found])[0, 1]


def test_without_siblings_or_on_other_probes_nothing_is_known() -> None:
    one = np.array([[0, 1, 2]])
    assert np.isnan(Consensus(one, 3).agreement(one[0], np.ones(3), own=0)).all()
    assert np.isnan(Consensus(np.empty((0, 3), dtype=np.int64), 3).agreement(one[0], np.ones(3))).all()
    assert np.isnan(Consensus(one, 3).agreement(np.array([0, 1]), np.ones(2))).all()


def test_a_class_that_siblings_do_not_know_agrees_with_none() -> None:
    found = Consensus(np.array([[0, 1], [0, 1]]), 2).agreement(np.array([0, 7]), np.ones(2))
    assert (found.with_most, found.mean) == (0.5, 0.5)
    with pytest.raises(ValueError, match="from 0 to 1"):
        Consensus(np.array([[0, 2]]), 2)


def test_a_vocabulary_of_millions_costs_no_more_than_a_few_classes() -> None:
    rng = np.random.default_rng(0)
    predictions = rng.integers(0, 2**32 - 1, (12, 256))
    found = Consensus(predictions, 2**32).agreement(predictions[0], np.ones(256), own=0)
    assert found.with_most == found.mean == 0.0
    assert Consensus(predictions, 2**32).agreement(predictions[0], np.ones(256)).mean == pytest.approx(1 / 12)
