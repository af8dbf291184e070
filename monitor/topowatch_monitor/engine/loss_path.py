"""The path of one run through the losses of its probes: ρ_S instead of a distance of weights."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from topowatch_monitor.engine.path_shape import weighted_sums
from topowatch_monitor.topology.dimension import loss_distances, ph_dimension, strided, tree_lengths

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from topowatch_monitor.engine.path_state import PathSettings

# Probes whose losses are kept, of more every k-th: with a window of 512 samples that is half a MiB a run.
PROBES = 256


class LossPathView(TypedDict):
    """What the losses of the probes tell, in the unit of the loss; None where nothing is known.

    Attributes:
        dimension: persistent-homology dimension of strided samples in ρ_S, the mean over probes of |loss − loss'|.
        lower: of its interval.
        upper: of its interval.
        points: samples in the window.
        e_alpha: E_α of the strided samples by α: '0.5', '1', '2'.
    """

    dimension: float | None
    lower: float | None
    upper: float | None
    points: int
    e_alpha: dict[str, float] | None


class LossPath:
    """Losses of the probes in the order of their steps, in a window as long as that of the path.

    As on the path, a step has one sample and a second one is ignored; a late one takes its place among the others,
    unless the window has moved past it. Losses that are not finite, or of another number of probes than the others,
    are left out.

    Args:
        settings: window, how often something is computed, and of how many samples.
    """

    def __init__(self, settings: PathSettings) -> None:
        self._settings = settings
        self._steps: list[int] = []
        self._losses: list[NDArray[np.float32]] = []
        self._past = -1  # the latest step that the window has moved past
        self._since = settings.shape_head_start
        self._dimension: tuple[float | None, float | None, float | None] = (None, None, None)
        self._e_alpha: dict[str, float] | None = None

    @property
    def steps(self) -> list[int]:
        """Steps of the window's samples, ascending."""
        return list(self._steps)

    def view(self) -> LossPathView | None:
        """What the losses tell now; None while the window is empty."""
        if not self._steps:
            return None
        value, lower, upper = self._dimension
        return {
            "dimension": value,
            "lower": lower,
            "upper": upper,
            "points": len(self._steps),
            "e_alpha": None if self._e_alpha is None else dict(self._e_alpha),
        }

    def add(self, step: int, losses: NDArray[np.float32]) -> bool:
        """Take the probes' losses at a step; return whether they are in the window now."""
        kept = losses[:: max(1, -(-len(losses) // PROBES))].copy()
        fits = not self._losses or len(kept) == len(self._losses[0])
        if not len(kept) or not fits or not np.isfinite(kept).all():
            return False
        place = bisect_left(self._steps, step)
        full = len(self._steps) >= self._settings.window
        known = place < len(self._steps) and self._steps[place] == step
        if known or step <= self._past or (place == 0 and full):
            return False
        self._steps.insert(place, step)
        self._losses.insert(place, kept)
        if full:
            self._past = self._steps.pop(0)
            del self._losses[0]
        self._since += 1
        if self._since >= self._settings.shape_every:
            self._compute()
        return True

    def discard(self, start: int, stop: int | None = None) -> None:
        """Drop the samples with start ≤ step (< stop), and what was computed with them."""
        self._past = min(self._past, start - 1)
        first = bisect_left(self._steps, start)
        last = len(self._steps) if stop is None else bisect_left(self._steps, stop)
        if first >= last:
            return
        del self._steps[first:last], self._losses[first:last]
        self._dimension, self._e_alpha = (None, None, None), None
        self._since = self._settings.shape_every  # the next sample brings a new one

    def state_dict(self) -> dict[str, Any]:
        """Everything that the window is, as plain numbers and arrays."""
        return {
            "steps": np.array(self._steps, dtype=np.int64),
            "losses": np.stack(self._losses) if self._losses else np.empty((0, 0), dtype=np.float32),
            "past": self._past,
            "since": self._since,
            "dimension": list(self._dimension),
            "e_alpha": self._e_alpha,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], settings: PathSettings) -> LossPath:
        """The window that `state_dict` described."""
        path = cls(settings)
        path._steps = state["steps"].tolist()
        path._losses = [losses.copy() for losses in state["losses"]]
        path._past = state["past"]
        path._since = state["since"]
        path._dimension = tuple(state["dimension"])
        path._e_alpha = state["e_alpha"]
        return path

    def _compute(self) -> None:
        self._since = self._settings.after(self._settings.shape_every, first=self._e_alpha is None)
        positions = strided(len(self._steps), self._settings.shape_points)
        distances = loss_distances(np.stack([self._losses[position] for position in positions.tolist()]))
        estimate = ph_dimension(distances)
        self._dimension = estimate.value, estimate.lower, estimate.upper
        self._e_alpha = weighted_sums(tree_lengths(distances).astype(np.float64))
