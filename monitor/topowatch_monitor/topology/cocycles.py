"""Persistent H¹ with representatives: for each loop of the territory, how much every edge goes round it.

Vin de Silva, Dmitriy Morozov, Mikael Vejdemo-Johansson: Persistent cohomology and circular coordinates, Discrete &
Computational Geometry 45 (2011): cocycles over ℤ/p, lifted to the integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Edges whose triangles are checked at a time.
_BLOCK = 256


@dataclass(frozen=True)
class Cocycle:
    """A class of H¹ with a representative.

    Attributes:
        birth: scale at which it appears.
        death: scale at which it is gone; the representative has no meaning on edges as long as that.
        values: V × V, antisymmetric: what the edge from row to column counts.
        modulus: 0 where values are integers; else the prime modulo which alone they are a cocycle, as no lift was.
    """

    birth: float
    death: float
    values: NDArray[np.int16]
    modulus: int

    def fold(self, sums: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sums of values as integers, or as their representatives between −p/2 and p/2."""
        if not self.modulus:
            return sums
        half = self.modulus // 2
        return (sums + half) % self.modulus - half


def persistent_cocycles(
    distances: NDArray[np.float32], prime: int, above: float
) -> tuple[NDArray[np.float64], list[Cocycle], NDArray[np.intp]]:
    """Persistent H¹ of the Rips filtration by Ripser, with cocycles of the bars that die above a scale.

    Args:
        distances: V × V, symmetric, finite.
        prime: of the coefficients.
        above: the scale.

    Returns:
        All bars, B × (birth, death); the cocycles; and the number of the bar of each.
    """
    if len(distances) < 4:  # a loop that is not filled at once needs four points
        return np.empty((0, 2)), [], np.empty(0, dtype=np.intp)
    from ripser import ripser  # imported here: it brings in scikit-learn

    found = ripser(distances, distance_matrix=True, maxdim=1, coeff=prime, do_cocycles=True)
    diagram = np.asarray(found["dgms"][1], dtype=np.float64).reshape(-1, 2)
    kept = np.flatnonzero(diagram[:, 1] > diagram[:, 0])
    bars = diagram[kept]
    alive = np.flatnonzero(bars[:, 1] > above)
    cocycles = [
        _lift(distances, np.asarray(found["cocycles"][1][kept[bar]]), float(bars[bar, 0]), float(bars[bar, 1]), prime)
        for bar in alive
    ]
    return bars, cocycles, alive


def _lift(
    distances: NDArray[np.float32], entries: NDArray[np.int64], birth: float, death: float, prime: int
) -> Cocycle:
    """Take the representatives in (−p/2, p/2) as integers, if that leaves a cocycle."""
    first, second = entries[:, 0], entries[:, 1]
    values = np.zeros(distances.shape, dtype=np.int16)
    half = prime // 2
    number = (entries[:, 2] + half) % prime - half
    values[first, second] = number
    values[second, first] = -number
    return Cocycle(birth, death, values, 0 if _is_cocycle(distances, values, death) else prime)


def _is_cocycle(distances: NDArray[np.float32], values: NDArray[np.int16], death: float) -> bool:
    """Whether the values of every triangle of edges shorter than `death` add up to zero."""
    alive = distances < np.float32(death)
    rows, columns = np.nonzero(np.triu(alive & (values != 0)))
    wide = values.astype(np.int64)
    for start in range(0, len(rows), _BLOCK):
        i, j = rows[start : start + _BLOCK], columns[start : start + _BLOCK]
        around = wide[i, j][:, None] + wide[j] - wide[i]
        if (around[alive[i] & alive[j]] != 0).any():
            return False
    return True
