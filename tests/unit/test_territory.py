"""The territory of paths: filled lines, landmarks that cover them, the quotient metric and walks without jumps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from planted_paths import around, hole_free
from topowatch_monitor.topology.territory import MAX_FILLED, SPACING, TERMINAL, Territory, _cells, fill, survey

small_paths = st.lists(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=8), min_size=1, max_size=6
)


def surveyed(paths: list[np.ndarray], *, landmarks: int = 60, relative: bool = True) -> Territory:
    territory = survey(paths, landmarks=landmarks, dims=3, relative=relative)
    assert territory is not None
    return territory


def places_of(territory: Territory, paths: list[np.ndarray]) -> list[np.ndarray]:
    """Each path in the coordinates of the territory, filled."""
    reduced = [territory.projection.reduce(path) / territory.unit for path in paths]
    points, owner = fill(np.concatenate(reduced), np.repeat(np.arange(len(paths)), [len(path) for path in paths]))
    return [points[owner == number] for number in range(len(paths))]


def to_vertices(territory: Territory, places: np.ndarray) -> np.ndarray:
    """Distances of places to all vertices in the quotient, by its definition."""
    to_end = cdist(places, territory.ends).min(axis=1)
    first = int(territory.relative)
    away = cdist(places, territory.landmarks[first:])
    if not first:
        return away
    ends = cdist(territory.landmarks[first:], territory.ends).min(axis=1)
    return np.column_stack([to_end, np.minimum(away, to_end[:, None] + ends[None])])


@settings(max_examples=80, deadline=None)
@given(paths=small_paths, scale=st.sampled_from([0.003, 0.05, 0.4]))
def test_lines_are_filled_without_a_gap_and_with_nothing_off_them(paths, scale):
    """Points given stay, those between lie on their line in order, and no line leads from one path to the next."""
    arrays = [np.array(path, dtype=float) * scale for path in paths]
    owner = np.repeat(np.arange(len(arrays)), [len(path) for path in arrays])
    points, owners = fill(np.concatenate(arrays), owner)
    assert owners.tolist() == sorted(owners.tolist())
    for number, path in enumerate(arrays):
        filled = points[owners == number]
        steps = np.linalg.norm(np.diff(filled, axis=0), axis=1)
        assert steps.max(initial=0.0) <= SPACING * (1 + 1e-9)
        assert steps.sum() == pytest.approx(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())
        assert all((filled == point).all(axis=1).any() for point in path)
        assert np.array_equal(filled[0], path[0])
        assert np.array_equal(filled[-1], path[-1])


def test_paths_that_are_all_noise_are_filled_more_coarsely_and_evenly():
    noise = np.random.default_rng(0).uniform(0.0, 0.5, (10_000, 3))
    points, _ = fill(noise, np.zeros(len(noise), dtype=np.intp))
    assert len(noise) + 0.5 * MAX_FILLED < len(points) <= len(noise) + MAX_FILLED
    total = np.linalg.norm(np.diff(noise, axis=0), axis=1).sum()
    assert np.linalg.norm(np.diff(points, axis=0), axis=1).max() <= total / MAX_FILLED * (1 + 1e-9)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("landmarks", [20, 90])
def test_every_point_of_every_path_is_within_the_cover_radius_of_a_vertex(landmarks, relative):
    """Up to the grid on which points count as one, whose cells are SPACING wide."""
    paths = around(16, 0)[0]
    territory = surveyed(paths, landmarks=landmarks, relative=relative)
    away = to_vertices(territory, np.concatenate(places_of(territory, paths))).min(axis=1).max()
    cell = SPACING * np.sqrt(territory.landmarks.shape[1])
    assert territory.cover - 1e-6 <= away <= territory.cover + cell
    assert len(territory.landmarks) == landmarks


def test_landmarks_keep_apart_what_the_cover_radius_is():
    """The other half of maxmin: no two vertices are closer in the quotient than the last cover radius."""
    territory = surveyed(hole_free("fan", 12, 1))
    distances = territory.distances + np.diag(np.full(len(territory.distances), np.inf, dtype=np.float32))
    assert distances.min() >= territory.cover * (1 - 1e-5)


@pytest.mark.parametrize("kind", ["fan", "wander"])
def test_distances_are_those_of_the_quotient_and_a_metric(kind):
    """min(d(x, y), d(x, A) + d(y, A)), term by term; the terminal vertex is as far from each as the nearest end."""
    territory = surveyed(hole_free(kind, 12, 2), landmarks=40)
    places = territory.landmarks
    to_end = [min(np.linalg.norm(place - end) for end in territory.ends) for place in places]
    expected = np.zeros((40, 40))
    for x, y in itertools.permutations(range(40), 2):
        if TERMINAL in (x, y):
            expected[x, y] = to_end[max(x, y)]
        else:
            expected[x, y] = min(np.linalg.norm(places[x] - places[y]), to_end[x] + to_end[y])
    distances = territory.distances
    np.testing.assert_allclose(distances, expected, atol=1e-6)
    assert (cdist(places[1:], places[1:]) > distances[1:, 1:] + 1e-3).any(), "no pair is closer through the ends"
    assert np.array_equal(distances, distances.T)
    assert (distances[:, None, :] <= distances[:, :, None] + distances[None] + 1e-6).all()


def test_without_a_terminal_point_distances_are_euclidean():
    territory = surveyed(hole_free("fan", 12, 3), relative=False)
    np.testing.assert_allclose(territory.distances, cdist(territory.landmarks, territory.landmarks), atol=1e-6)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_walks_go_from_the_start_to_the_end_by_edges_no_longer_than_the_scale(seed, relative):
    paths = around(14, seed, samples=(20, 200))[0]
    territory = surveyed(paths, relative=relative)
    assert len(territory.offsets) == len(paths) + 1
    for number, places in enumerate(places_of(territory, paths)):
        walk = territory.walks[territory.offsets[number] : territory.offsets[number + 1]]
        away = to_vertices(territory, places)
        assert away[0, walk[0]] <= away[0].min() + SPACING * np.sqrt(3.0)
        assert away[-1, walk[-1]] <= away[-1].min() + SPACING * np.sqrt(3.0)
        assert (walk[:-1] != walk[1:]).all()
        assert territory.distances[walk[:-1], walk[1:]].max() <= territory.scale
        # Every place of the path is near the walk, not only its ends.
        assert away[:, np.unique(walk)].min(axis=1).max() <= territory.cover + SPACING * np.sqrt(3.0)
        if relative:
            assert walk[-1] == TERMINAL


def test_the_scale_is_the_least_that_connects_the_landmarks_and_holds_every_walk():
    """And it is no more than two cover radii, and the steps and cells of the filled lines."""
    territory = surveyed(around(14, 3)[0])
    scale, distances = np.float32(territory.scale), territory.distances
    assert connected_components(distances <= scale)[0] == 1
    jumps = distances[territory.walks[:-1], territory.walks[1:]]
    jumps[territory.offsets[1:-1] - 1] = 0.0
    assert (jumps <= scale).all()
    assert (jumps == scale).any() or connected_components(distances < scale)[0] > 1
    assert territory.scale <= 2.0 * territory.cover + 5.0 * SPACING


@settings(max_examples=40, deadline=None)
@given(paths=small_paths, relative=st.booleans())
def test_any_paths_have_a_territory_with_a_walk_each_unless_all_points_are_equal(paths, relative):
    arrays = [np.array(path, dtype=float) for path in paths]
    territory = survey(arrays, landmarks=10, dims=3, relative=relative)
    everything = np.concatenate(arrays)
    assert (territory is None) == bool((everything == everything[0]).all())
    if territory is not None:
        assert np.diff(territory.offsets).min() >= 1
        assert len(territory.offsets) == len(arrays) + 1
        assert territory.walks.min() >= 0
        assert territory.walks.max() < len(territory.landmarks)
        assert np.isfinite(territory.distances).all()
        assert np.isfinite(territory.scale)


def test_cells_of_many_dimensions_are_not_mixed_up():
    """Twelve axes of 400 cells have more cells than a 64-bit number counts."""
    points = np.random.default_rng(0).uniform(size=(50, 12))
    index, inverse = _cells(np.vstack([points, points[:7]]))
    assert len(index) == 50
    assert inverse[50:].tolist() == inverse[:7].tolist()
