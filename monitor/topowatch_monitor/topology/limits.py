"""What a homology computation will need, known before it is begun; what is too large is refused in words.

Costs were measured on one core at 3 GHz; memory is that of the distance matrix, the edges and the columns of Ripser.
"""

from __future__ import annotations

from dataclasses import dataclass

from topowatch_monitor.topology.scatter import MAX_GROUPS

# Numbers of all paths together: 4 GiB as float64.
MAX_NUMBERS = 1 << 29
# Vertices of a Rips complex up to dimension 1 with cocycles.
MAX_VERTICES = 1000
# Ripser's loops over the cofacets of an edge: n³/6 triangles, about this many a second.
TRIANGLES_PER_SECOND = 2e7
BYTES_PER_EDGE = 64


class TooLargeError(ValueError):
    """The computation would take too much memory or time; the message says what to make smaller."""


@dataclass(frozen=True)
class Estimate:
    """What a computation needs at most: bytes of memory, and seconds on one core if no shortcut helps."""

    memory: int
    seconds: float


def estimate_rips(vertices: int) -> Estimate:
    """Estimate persistent H₁ of a full Rips filtration."""
    edges, triangles = vertices * (vertices - 1) // 2, vertices**3 / 6
    return Estimate(8 * vertices * vertices + BYTES_PER_EDGE * edges, triangles / TRIANGLES_PER_SECOND)


def check_classes(points: int, dimension: int, landmarks: int) -> Estimate:
    """Estimate a classification of paths.

    Args:
        points: of all paths together.
        dimension: numbers in a point.
        landmarks: vertices of the complex.

    Raises:
        TooLargeError: it is beyond MAX_NUMBERS or MAX_VERTICES.
    """
    if points * dimension > MAX_NUMBERS:
        raise TooLargeError(
            f"{points:,} points of {dimension:,} numbers are over {MAX_NUMBERS:,} numbers in all: "
            "thin the paths out, or project the points first"
        )
    if landmarks > MAX_VERTICES:
        raise TooLargeError(f"landmarks are at most {MAX_VERTICES}, not {landmarks}: the cost grows with their cube")
    rips = estimate_rips(landmarks)
    # The points, reduced and filled, their cells, and one pass over them for each landmark; then the Gaussian groups.
    seconds = (1 + MAX_GROUPS) * rips.seconds + 3e-9 * points * landmarks
    return Estimate(rips.memory + 8 * points * (dimension + 12), seconds)
