"""The basin of a point in a slice of the loss: how deep it is, and how far the loss must rise to leave the slice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.topology.persistence import sublevel_persistence, total_persistence

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Basin:
    """What sublevel persistence says of the basin around the centre of a slice, in the unit of the loss.

    Attributes:
        depth: how far the lowest point of the basin lies below the lowest pass out of it: the persistence of what dies
            at that pass, where all outside of the slice counts as lower than any point of it; 0 on a slope.
        escape_height: how far that pass lies above the centre, at least 0. The pass is the minimax height over all ways
            along the grid from the centre to the border.
        total_persistence: sum of the finite bars of the slice, of H₀ and H₁.
    """

    depth: float
    escape_height: float
    total_persistence: float


def basin(grid: ArrayLike) -> Basin | None:
    """Measure the basin of the centre of a slice; None where the loss at the centre is not finite.

    Args:
        grid: rows × columns losses, an odd number of each, 3 at least; what is not finite counts as +inf. Neighbours
            share a side.

    Raises:
        ValueError: there is no centre with a point on each side.
    """
    values = np.asarray(grid, dtype=np.float64)
    if values.ndim != 2 or not (values.shape[0] % 2 and values.shape[1] % 2) or min(values.shape) < 3:
        raise ValueError(f"a slice has odd numbers of rows and columns, 3 at least, not a shape of {values.shape}")
    values = np.where(np.isfinite(values), values, np.inf)
    row, column = values.shape[0] // 2, values.shape[1] // 2
    centre = float(values[row, column])
    if not np.isfinite(centre):
        return None
    total = total_persistence(sublevel_persistence(values))
    # In units of the largest, so that what is put beneath all does not drown in rounding.
    unit = float(np.abs(values[np.isfinite(values)]).max()) or 1.0
    values, centre = values / unit, centre / unit
    beneath, outside = -2.0, -3.0
    # Lowered under all but the outside, the centre is the elder of every basin, until it meets the outside.
    padded = np.pad(values, 1, constant_values=outside)
    lowered = padded.copy()
    lowered[row + 1, column + 1] = beneath
    pass_height = _death_of(sublevel_persistence(lowered), beneath)
    if not np.isfinite(pass_height):
        return Basin(np.inf, np.inf, total)
    # What dies at the pass is the lowest point of the basin; of an edge of the slice, nothing.
    bars = sublevel_persistence(padded)
    dying = bars[(bars[:, 2] == 0) & (bars[:, 1] == pass_height)]
    depth = float((dying[:, 1] - dying[:, 0]).max()) if len(dying) else 0.0
    return Basin(depth * unit, max(pass_height - centre, 0.0) * unit, total)


def _death_of(bars: np.ndarray[tuple[int, int], np.dtype[np.float64]], birth: float) -> float:
    of = bars[(bars[:, 2] == 0) & (bars[:, 0] == birth)]
    return float(of[0, 1])
