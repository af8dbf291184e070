"""Paths whose classes are known: without a hole, or around planted ones, in any number of dimensions.

Everything is drawn in a plane or a 3-D space, rotated at random into `dims` dimensions, and noise is added there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

Paths = list["NDArray[np.float64]"]


def embedded(paths: Sequence[NDArray[np.float64]], dims: int, noise: float, rng: np.random.Generator) -> Paths:
    """Rotate paths into `dims` dimensions and shake every point by Gaussian noise of that size a coordinate."""
    low = paths[0].shape[1]
    axes = np.linalg.qr(rng.standard_normal((max(dims, low), low)))[0]
    return [path @ axes.T + noise * rng.standard_normal((len(path), len(axes))) for path in paths]


def times(rng: np.random.Generator, least: int, most: int) -> NDArray[np.float64]:
    """Between `least` and `most` uneven moments from 0 to 1, both ends among them."""
    moments = np.sort(rng.uniform(0.0, 1.0, int(rng.integers(least, most))))
    moments[0], moments[-1] = 0.0, 1.0
    return moments


def fan(rng: np.random.Generator, runs: int, lateral: int) -> Paths:
    """Paths from one point to ends that scatter like a Gaussian, wavy on their way."""
    paths = []
    for _ in range(runs):
        t = times(rng, 40, 120)
        sides = [
            rng.standard_normal() * t**1.5
            + 0.15 * t * (np.sin(np.pi * np.outer(t, [1, 2, 3])) @ rng.standard_normal(3))
            for _ in range(lateral)
        ]
        paths.append(np.column_stack([2.0 * t, *sides]))
    return paths


def bundle(rng: np.random.Generator, runs: int, lateral: int) -> Paths:
    """Paths from one point to another, wavy on their way."""
    paths = []
    for _ in range(runs):
        t = times(rng, 40, 120)
        waves = np.sin(np.pi * np.outer(t, [1, 2, 3, 4])) / [1, 2, 3, 4]
        paths.append(np.column_stack([2.0 * t, *(0.5 * waves @ rng.standard_normal(4) for _ in range(lateral))]))
    return paths


def approach(rng: np.random.Generator, runs: int, lateral: int) -> Paths:
    """Paths that slow down towards ends that scatter, as training does."""
    paths = []
    for _ in range(runs):
        s = 1.0 - np.exp(-5.0 * times(rng, 40, 120))
        sides = [
            0.3 * rng.standard_normal() * s + (0.8 + 0.4 * rng.standard_normal()) * s * (1.0 - s)
            for _ in range(lateral)
        ]
        paths.append(np.column_stack([2.0 * s, *sides]))
    return paths


def wander(rng: np.random.Generator, runs: int, lateral: int) -> Paths:
    """Random walks from one point."""
    walks = [rng.standard_normal((int(rng.integers(40, 120)), lateral + 1)) / 10.0 for _ in range(runs)]
    return [np.cumsum(np.vstack([np.zeros((1, lateral + 1)), steps]), axis=0) for steps in walks]


HOLE_FREE: dict[str, Callable[[np.random.Generator, int, int], Paths]] = {
    "fan": fan,
    "bundle": bundle,
    "approach": approach,
    "wander": wander,
}


def hole_free(kind: str, runs: int, seed: int, *, lateral: int = 2, dims: int = 10, noise: float = 0.01) -> Paths:
    """A group of paths over territory without a hole; see the functions above."""
    rng = np.random.default_rng(seed)
    return embedded(HOLE_FREE[kind](rng, runs, lateral), dims, noise, rng)


def around(
    runs: int,
    seed: int,
    *,
    holes: int = 1,
    radius: float = 0.5,
    dims: int = 10,
    noise: float = 0.02,
    width: float = 0.25,
    winding: float = 0.25,
    ends: float = 0.05,
    samples: tuple[int, int] = (60, 160),
) -> tuple[Paths, list[tuple[int, ...]]]:
    """Paths past round holes in a row, on either side of each, some once more around.

    Args:
        runs: paths.
        seed: determines everything.
        holes: how many; their middles are 2 apart.
        radius: of each.
        dims: of the space.
        noise: of every coordinate.
        width: of the territory around a hole: paths keep |N(0, 1)| · width off its rim.
        winding: share of passages that go around once more.
        ends: how far the ends scatter.
        samples: least and most points of a path.

    Returns:
        The paths, and for each its half turns around every hole: +1 over it, −1 under it, ±3 once more around.
    """
    rng = np.random.default_rng(seed)
    paths, truth = [], []
    for _ in range(runs):
        turns = tuple(int(rng.choice([-1, 1])) * (3 if rng.uniform() < winding else 1) for _ in range(holes))
        curve = np.vstack([_passage(2.0 * hole + 1.0, turn, radius, width, rng) for hole, turn in enumerate(turns)])
        along = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1)))
        t = times(rng, *samples)
        path = np.column_stack([np.interp(t, along / along[-1], column) for column in curve.T])
        paths.append(path + ends * t[:, None] * rng.standard_normal(2))
        truth.append(turns)
    return embedded(paths, dims, noise, rng), truth


def _passage(middle: float, turns: int, radius: float, width: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """From one side of a hole to the other, half a turn or more around it."""
    count = 400 * abs(turns)
    angle = np.linspace(np.pi, np.pi - turns * np.pi, count)
    part = np.linspace(0.0, 1.0, count)
    inward = np.clip(np.minimum(part, 1.0 - part) * abs(turns) * 4.0, 0.0, 1.0)
    distance = (1.0 - inward) + inward * (radius + 0.05 + width * abs(rng.standard_normal()))
    return np.column_stack([middle + distance * np.cos(angle), distance * np.sin(angle)])


def same(labels: Sequence[object]) -> NDArray[np.bool_]:
    """Which pairs have the same label: n × n."""
    return np.array([[first == second for second in labels] for first in labels])
