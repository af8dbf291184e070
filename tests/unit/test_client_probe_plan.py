"""Which positions a probe pass looks at."""

from __future__ import annotations

import numpy as np
import pytest

from topowatch_client.probe_plan import BUDGET, plan


def test_examples_of_one_position_are_thinned_evenly() -> None:
    chosen = plan(np.ones((1000, 1), bool), 10, 10, BUDGET)
    assert chosen.examples.tolist() == list(range(0, 1000, 100))
    assert chosen.offsets.tolist() == [[0]] * 10
    assert not chosen.crowded


def test_sequences_give_sixteen_positions_each_at_offsets_they_share() -> None:
    chosen = plan(np.ones((300, 1024), bool), 50_257, 256, BUDGET)
    assert chosen.offsets.shape == (16, 16)
    assert (chosen.offsets == chosen.offsets[0]).all()
    assert chosen.offsets[0].tolist() == list(range(32, 1024, 64))
    assert chosen.examples.tolist() == [example * 300 // 16 for example in range(16)]
    assert (chosen.crowded, chosen.batch) == (True, 1)


def test_few_sequences_give_more_positions_each_as_far_as_the_budget_allows() -> None:
    assert plan(np.ones((4, 1024), bool), 100, 256, BUDGET).offsets.shape == (4, 64)
    assert plan(np.ones((1, 1024), bool), 50_257, 256, BUDGET).offsets.shape == (1, BUDGET // 50_257)


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_keeps_to_what_counts_to_the_number_wanted_and_to_the_budget(seed: int) -> None:
    """Whatever the shapes; and it looks at half of what could be looked at, at least."""
    rng = np.random.default_rng(seed)
    examples, positions, classes = rng.integers(1, 60), rng.integers(1, 60), int(rng.integers(1, 300))
    wanted, budget = int(rng.integers(1, 300)), int(rng.integers(300, 20_000))
    counted = rng.random((examples, positions)) < rng.random()
    counted[rng.integers(examples), rng.integers(positions)] = True
    chosen = plan(counted, classes, wanted, budget)
    assert counted[chosen.examples[:, None], chosen.offsets].all()
    assert (np.diff(chosen.offsets, axis=1) > 0).all()
    assert (np.diff(chosen.examples) > 0).all()
    assert 1 <= chosen.count <= wanted
    parts = list(chosen.parts())
    assert sum(part.stop - part.start for part in parts) == len(chosen.examples)
    each = chosen.offsets.shape[1] if chosen.crowded else positions
    assert max((part.stop - part.start) * each * classes for part in parts) <= max(budget, classes)
    reachable = max(
        size * min((counted.sum(1) >= size).sum(), wanted // size) for size in range(1, min(16, wanted) + 1)
    )
    assert chosen.count >= min(reachable, budget // classes) / 2


def test_positions_that_do_not_count_are_left_out() -> None:
    """As in fine-tuning, where prompts and padding are ignored: two sequences have too little to say."""
    counted = np.zeros((6, 100), bool)
    counted[:4, 60:90] = True
    counted[4, 5] = True
    chosen = plan(counted, 50, 64, BUDGET)
    assert chosen.examples.tolist() == [0, 1, 2, 3]
    assert chosen.offsets.shape == (4, 16)
    assert chosen.offsets.min() >= 60
    assert chosen.offsets.max() < 90


def test_rows_of_a_call_are_counted_example_after_example() -> None:
    chosen = plan(np.ones((3, 10), bool), 5, 30, BUDGET)
    assert chosen.kept(slice(1, 3)).tolist() == list(range(20))
    fewer = plan(np.ones((3, 10), bool), 5, 6, BUDGET)
    assert fewer.kept(slice(0, 1)).tolist() == fewer.offsets[0].tolist()
