"""What a run was like on its way: features at a bounded number of steps, from which forecasts are learned later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

# Milestones of a run, at most; at least half as many, once it had that many samples.
MOST = 64


class Milestone(NamedTuple):
    """A moment of a run.

    Attributes:
        step: at whose end.
        features: F numbers by `forecast.FEATURES`, NaN where unknown.
        predicted: n classes that it predicted on its probes; none where it has no probes, or no classes.
        confidence: n probabilities of these.
    """

    step: int
    features: NDArray[np.float64]
    predicted: NDArray[np.uint32]
    confidence: NDArray[np.float16]


class Milestones:
    """Milestones ascending in step, none nearer to the one before it than a gap, which doubles when there are too many.

    What comes late, or nearer, is left out. So they depend on nothing but the samples and the order in which they came.
    """

    def __init__(self) -> None:
        self._gap = 1
        self._known: list[Milestone] = []

    def __len__(self) -> int:
        return len(self._known)

    @property
    def known(self) -> list[Milestone]:
        """The milestones, ascending in step."""
        return list(self._known)

    def due(self, step: int) -> bool:
        """Whether a sample of this step is to be a milestone."""
        return not self._known or step >= self._known[-1].step + self._gap

    def add(self, milestone: Milestone) -> None:
        """Take a milestone that is due."""
        self._known.append(milestone)
        while len(self._known) > MOST:
            self._gap *= 2
            kept = self._known[:1]
            for each in self._known[1:]:
                if each.step >= kept[-1].step + self._gap:
                    kept.append(each)
            self._known = kept

    def discard(self, start: int, stop: int | None = None) -> None:
        """Forget milestones with start ≤ step (< stop)."""
        end = np.inf if stop is None else stop
        self._known = [each for each in self._known if not start <= each.step < end]

    def state_dict(self) -> dict[str, Any]:
        """Everything that is known, as plain numbers and arrays."""
        return {"gap": self._gap, "known": [list(each) for each in self._known]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Milestones:
        """The milestones that `state_dict` described."""
        milestones = cls()
        milestones._gap = state["gap"]
        milestones._known = [Milestone(*each) for each in state["known"]]
        return milestones
