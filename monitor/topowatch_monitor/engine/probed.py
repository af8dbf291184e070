"""What a run's probes show of it: the path of its predictions, that path as a whole, and the path of its losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from topowatch_monitor.engine.loss_path import LossPath
from topowatch_monitor.engine.path_state import PathSettings, PathState
from topowatch_monitor.engine.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

Said = tuple["NDArray[np.uint32]", "NDArray[np.float16]"]
_NOTHING: Said = np.empty(0, dtype=np.uint32), np.empty(0, dtype=np.float16)


class Probed:
    """Paths on one probe set; with another one they begin anew, as what it shows cannot be compared.

    Args:
        settings: how much of the paths is looked at.
        trace_points: points of the trace.

    Attributes:
        digest: of the probe set; empty until known.
        classes: that the predictions are of; 0 where they are of none.
        said: class that was predicted last on each probe, and its probability.
        predictions: the window of the path of the predictions.
        losses: the window of the path of the losses.
        trace: the path of the predictions from its first point to its newest.
    """

    def __init__(self, settings: PathSettings, trace_points: int) -> None:
        self._settings = settings
        self._trace_points = trace_points
        self.digest = b""
        self.classes = 0
        self._clear()

    def show(self, digest: bytes) -> bool:
        """Take over the digest of the probe set that is used now; return whether the paths begin anew for it."""
        changed = bool(self.digest and digest and digest != self.digest)
        if changed:
            self._clear()
        self.digest = digest or self.digest
        return changed

    def predicted(self, step: int, point: NDArray[np.float32], said: Said | None = None) -> None:
        """Take the predictions of a step; what has no place on the path has none in the trace."""
        newest = self.predictions.steps[-1] if self.predictions.points else -1
        if self.predictions.add(step, point):
            self.trace.add(step, point)
            if said is not None and step > newest:
                self.said = said

    def discard(self, start: int, stop: int | None = None) -> None:
        """Drop what was seen at start ≤ step (< stop)."""
        self.predictions.discard(start, stop)
        self.trace.discard(start, stop)
        self.losses.discard(start, stop)

    def state_dict(self) -> dict[str, Any]:
        """Everything seen, as plain values and arrays."""
        return {
            "digest": self.digest.hex(),
            "predictions": self.predictions.state_dict(),
            "trace": self.trace.state_dict(),
            "losses": self.losses.state_dict(),
            "classes": self.classes,
            "said": list(self.said),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], settings: PathSettings, trace_points: int) -> Probed:
        """What `state_dict` described."""
        probed = cls(settings, trace_points)
        probed.digest = bytes.fromhex(state["digest"])
        probed.predictions = PathState.from_state(state["predictions"])
        probed.trace = Trace.from_state(state["trace"], trace_points)
        probed.losses = LossPath.from_state(state["losses"], settings)
        probed.classes = state["classes"]
        classes, confidence = state["said"]
        probed.said = classes, confidence
        return probed

    def _clear(self) -> None:
        self.predictions = PathState(self._settings)
        self.trace = Trace(self._trace_points)
        self.losses = LossPath(self._settings)
        self.said = _NOTHING
