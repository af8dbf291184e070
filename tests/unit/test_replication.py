"""The evaluation of path classes is right where the answer is plain: planted outliers, a slow twin, a convex loss."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import cdist, pdist, squareform

pytest.importorskip("torch")

from replication import calibration_page, tables
from replication.baselines import BASELINES, Siblings, disagreement, robust_z
from replication.branching import FAMILIES, all_barriers, barrier
from replication.dtw import dtw_distances, joining_heights, thin
from replication.generate import PARTS, plans
from replication.judge_branching import rank_correlation
from replication.judge_routes import how_ends_agree
from replication.judging import finite
from replication.scoring import Tally, threshold
from replication.sweeps import HALVES, HEALTHY, SWEEPS, TOGETHER
from replication.training import INTERVAL, moments

RUNS, POINTS, PROBES = 20, 40, 50


def siblings(seed: int, *, planted: bool) -> Siblings:
    """Runs along one bent way with noise; the last one goes elsewhere if an outlier is `planted`."""
    rng = np.random.default_rng(seed)
    way = np.stack([np.linspace(0, 1, POINTS), np.linspace(0, 1, POINTS) ** 2, np.zeros(POINTS)], axis=1)
    paths = [way + 0.02 * rng.standard_normal(way.shape) for _ in range(RUNS)]
    losses = np.exp(0.1 * rng.standard_normal((2, RUNS)))
    truth = rng.integers(0, 10, PROBES)
    wrong = rng.random((RUNS, PROBES)) < 0.05
    predictions = np.where(wrong, (truth + 1) % 10, truth)
    if planted:
        paths[-1] = paths[-1] + np.linspace(0, 1, POINTS)[:, None] * [0, 0, 1]
        losses[:, -1] *= 5
        predictions[-1, : PROBES // 2] = (truth[: PROBES // 2] + 3) % 10
    return Siblings(paths, losses[0], losses[1], predictions)


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_flags_a_planted_outlier_and_is_silent_without_one(name: str) -> None:
    healthy = np.concatenate([BASELINES[name](siblings(seed, planted=False)) for seed in range(6)])
    limit = threshold(healthy, 1 / 100)
    for seed in range(10, 13):
        scores = BASELINES[name](siblings(seed, planted=True))
        assert scores[-1] > limit
        assert scores.argmax() == RUNS - 1
        assert np.sum(BASELINES[name](siblings(seed, planted=False)) > limit) <= 1


def test_dtw_equals_the_textbook_recursion() -> None:
    rng = np.random.default_rng(0)
    paths = [np.cumsum(rng.standard_normal((7, 3)), axis=0) for _ in range(5)]

    def slow(first: np.ndarray, second: np.ndarray) -> float:
        total = np.full((8, 8), np.inf)
        total[0, 0] = 0
        for i in range(1, 8):
            for j in range(1, 8):
                here = np.linalg.norm(first[i - 1] - second[j - 1])
                total[i, j] = here + min(total[i - 1, j], total[i, j - 1], total[i - 1, j - 1])
        return float(total[-1, -1])

    expected = [[slow(first, second) for second in paths] for first in paths]
    np.testing.assert_allclose(dtw_distances(paths), expected, atol=1e-9)


def test_dtw_does_not_see_speed() -> None:
    line = np.linspace(0, 1, 20)[:, None]
    slow_start = np.concatenate([np.zeros((10, 1)), np.linspace(0, 1, 10)[:, None]])
    away = line + 0.5
    distances = dtw_distances([line, slow_start, away])
    assert distances[0, 1] < 0.2 * distances[0, 2]


def test_thinning_keeps_both_ends() -> None:
    path = np.arange(100.0)[:, None]
    thinned = thin(path, 7)
    assert len(thinned) == 7
    assert thinned[0] == 0
    assert thinned[-1] == 99


@pytest.mark.parametrize("method", ["single", "average"])
def test_joining_heights_are_where_flat_clusters_first_hold_more_than_half(method: str) -> None:
    points = np.random.default_rng(1).standard_normal((15, 2))
    distances = squareform(pdist(points))
    heights = joining_heights(distances, method)
    tree = linkage(pdist(points), method)
    for run, height in enumerate(heights):
        behind, before = (fcluster(tree, height * factor, "distance") for factor in (1 + 1e-9, 1 - 1e-9))
        assert np.sum(behind == behind[run]) > 7
        assert np.sum(before == before[run]) <= 7


def test_robust_z_is_in_deviations_of_a_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(3, 2, 20_000)
    np.testing.assert_allclose(robust_z(values), np.abs(values - 3) / 2, rtol=0.05, atol=0.05)
    assert np.all(robust_z(np.ones(5)) == 0)


def test_disagreement_leaves_the_own_vote_out() -> None:
    np.testing.assert_array_equal(disagreement(np.array([[1, 0], [1, 0], [2, 0]])), [0, 0, 0.5])
    np.testing.assert_array_equal(disagreement(np.array([[1], [2], [2]])), [1, 0, 0])


def test_a_convex_quadratic_has_no_barrier_and_a_double_well_has_its_own() -> None:
    rng = np.random.default_rng(0)
    root = rng.standard_normal((4, 4))
    ends = list(rng.standard_normal((5, 4)))
    assert np.all(all_barriers(lambda weights: float(weights @ root @ root.T @ weights), ends) == 0)
    wells = barrier(lambda weights: float((weights[0] ** 2 - 1) ** 2), np.array([-1.0]), np.array([1.0]))
    assert wells == pytest.approx(1)


def test_a_threshold_lets_the_allowed_share_of_the_healthy_through() -> None:
    healthy = np.random.default_rng(0).permutation(96).astype(float)
    assert np.sum(healthy > threshold(healthy, 1 / 24)) == 4
    assert np.sum(healthy > threshold(healthy, 0)) == 0


def test_a_tally_counts_groups_kinds_and_abstentions() -> None:
    tally = Tally()
    tally.add(["healthy", "healthy", "noise", "slow"], np.array([True, False, True, False]), np.array([1, 0, 3, 2.0]))
    tally.add(["healthy", "noise"], np.array([False, False]), np.array([0.0, 0.5]), abstained=True)
    summary = tally.summary()
    assert (summary["healthy"], summary["false_positives"]) == (3, 1)
    assert (summary["spoiled"], summary["found"]) == (3, 1)
    assert summary["precision"] == 0.5
    assert summary["recall"] == pytest.approx(1 / 3)
    assert summary["by_kind"] == {"noise": [1, 2], "slow": [0, 1]}
    assert summary["groups"] == {"healthy": 0, "spoiled": 2}
    assert summary["abstained"] == {"healthy": 0, "spoiled": 1}
    assert summary["auc"] == pytest.approx(8 / 9)


def test_rank_correlation_of_pairs() -> None:
    distances = cdist(*[np.random.default_rng(0).standard_normal((6, 3))] * 2)
    assert rank_correlation(distances, distances**3) == pytest.approx(1)
    assert rank_correlation(distances, -distances) == pytest.approx(-1)
    assert rank_correlation(distances, np.ones((6, 6))) is None


def test_scales_without_an_end_are_the_largest() -> None:
    scale = finite(np.array([[0, 1, np.inf], [1, 0, np.inf], [np.inf, np.inf, 0]]))
    assert np.isfinite(scale).all()
    assert scale[0, 2] > scale[0, 1]
    assert np.all(finite(np.full((2, 2), np.inf))[0] == [0, 1])


def test_ends_agree_where_only_the_route_differs() -> None:
    group = siblings(0, planted=True)
    moved = how_ends_agree(group, RUNS - 1)
    assert moved["disagreement_detour"] > 3 * moved["disagreement_straight"]
    assert moved["distance_detour"] > 3 * moved["distance_straight"]
    assert moved["alike"] == 0
    alike = how_ends_agree(siblings(0, planted=False), RUNS - 1)
    assert alike["distance_detour"] < 1.5 * alike["distance_straight"]


def test_looks_are_dense_at_the_start_and_hold_those_of_a_client() -> None:
    looks, regular = moments(1000)
    assert list(looks[:17]) == list(range(17))
    assert list(looks[regular]) == [*range(0, 1000, INTERVAL), 1000]
    assert len(np.unique(looks)) == len(looks)


def test_plans_are_distinct_and_halves_share_no_split() -> None:
    everything = [plan for part in PARTS for plan in plans(part)]
    assert len({plan.path for plan in everything}) == len(everything)
    seeds = {half: {sweep.split_seed for sweep in SWEEPS if sweep.half == half} for half in HALVES}
    assert not seeds["tune"] & seeds["report"]
    for sweep in SWEEPS:
        assert [len(group) for group in sweep.groups()] == [HEALTHY] + 3 * [HEALTHY + TOGETHER]
        for group in sweep.groups()[1:]:
            assert len({plan.job.kind for plan in group}) == 1 + TOGETHER
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_the_page_is_what_the_kept_results_say() -> None:
    results = {part: json.loads((tables.RESULTS / f"{part}.json").read_text()) for part in tables.PARTS}
    assert tables.PAGE.read_text() == tables.page(results)


def test_the_page_of_the_calibration_is_what_the_kept_results_say() -> None:
    assert calibration_page.PAGE.read_text() == calibration_page.page(json.loads(calibration_page.RESULTS.read_text()))
