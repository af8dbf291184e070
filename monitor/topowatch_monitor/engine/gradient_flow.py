"""Whether a run follows its gradients: gradient flow consistency, over a window of samples."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

WINDOW = 9  # samples that bring a gradient: eight stretches


class _Sample(NamedTuple):
    step: int
    weights: NDArray[np.float32]
    gradient: NDArray[np.float32]


def consistency(weights: NDArray[np.float32], gradients: NDArray[np.float32]) -> float | None:
    """Cosine between where the weights have gone and where the gradients pointed; None where either is zero.

    1 for gradient descent of which every step is seen. Of a run that is sampled now and then the gradients stand for
    their stretches; momentum and adaptive rates turn the path away from them.

    Args:
        weights: k × d sketches, k ≥ 2, ascending in step.
        gradients: k × d sketches of the gradients of the updates that led there; the first lies before the stretch.
    """
    path = (weights[0] - weights[-1]).astype(np.float64)
    pull = gradients[1:].astype(np.float64).sum(axis=0)
    size = float(np.linalg.norm(path) * np.linalg.norm(pull))
    return float(path @ pull) / size if size > 0 else None


class GradientFlow:
    """Keeps the latest samples that brought a gradient."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=WINDOW)

    def add(self, step: int, weights: NDArray[np.float32], gradient: NDArray[np.float32]) -> float | None:
        """Take a sample in; return the consistency over the window, None where that is not known.

        One that comes late is left out; with one of another dimension the window begins anew.
        """
        if len(weights) != len(gradient) or (self._samples and step <= self._samples[-1].step):
            return None
        if self._samples and len(self._samples[-1].weights) != len(weights):
            self._samples.clear()
        self._samples.append(_Sample(step, weights, gradient))
        if len(self._samples) < 2:
            return None
        return consistency(
            np.stack([each.weights for each in self._samples]), np.stack([each.gradient for each in self._samples])
        )

    def discard(self, start: int, stop: int | None = None) -> None:
        """Forget samples with start ≤ step (< stop)."""
        end = np.inf if stop is None else stop
        self._samples = deque((each for each in self._samples if not start <= each.step < end), maxlen=WINDOW)

    def state_dict(self) -> dict[str, Any]:
        """Everything that is known, as plain numbers and arrays."""
        return {
            "steps": [each.step for each in self._samples],
            "weights": [each.weights for each in self._samples],
            "gradients": [each.gradient for each in self._samples],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> GradientFlow:
        """What `state_dict` described."""
        flow = cls()
        flow._samples.extend(map(_Sample, state["steps"], state["weights"], state["gradients"]))
        return flow
