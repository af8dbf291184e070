"""What a run tells of the loss around its path: critical learning rates, slices, and whether it follows its gradients.

What comes at many steps goes into the run's history, where detectors find it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from topowatch_monitor.engine.gradient_flow import GradientFlow
from topowatch_monitor.engine.landscape import Landscape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from topowatch_monitor.detect import History
    from topowatch_monitor.engine.landscape import LandscapeView
    from topowatch_monitor.engine.reading import Reading

RATIO, BEND = "critical_lr_ratio", "secant_curvature"
FLOW, DEPTH = "gradient_flow_consistency", "basin_depth"


class TerrainView(TypedDict):
    """What a run's view tells of it; None where nothing is known.

    Attributes:
        critical_lr_ratio: learning rate over the critical one, at the newest search for it.
        secant_curvature: of the loss along the last update, at the newest search for which it could be told.
        gradient_flow_consistency: cosine between the path and the gradients, lately.
        landscape: the newest slice of the loss.
    """

    critical_lr_ratio: float | None
    secant_curvature: float | None
    gradient_flow_consistency: float | None
    landscape: LandscapeView | None


class Terrain:
    """Takes samples of the run's path in, ascending in step but for late ones."""

    def __init__(self) -> None:
        self._landscape = Landscape()
        self._flow = GradientFlow()

    def take(self, reading: Reading, history: History) -> None:
        """Take what a sample tells."""
        step = reading.step
        if reading.critical_step is not None:
            history.extend(RATIO, [step], [1 / reading.critical_step])
        if reading.curvature is not None:
            history.extend(BEND, [step], [reading.curvature])
        if reading.weights is not None and reading.gradient is not None:
            consistency = self._flow.add(step, reading.weights, reading.gradient)
            if consistency is not None:
                history.extend(FLOW, [step], [consistency])
        if reading.plane is not None:
            found = self._landscape.add(reading.plane)
            if found is not None and found["basin_depth"] is not None and not reading.plane.problem:
                history.extend(DEPTH, [step], [found["basin_depth"]])

    def discard(self, start: int, stop: int | None = None) -> None:
        """Forget what was seen at start ≤ step (< stop); the history forgets by itself."""
        self._landscape.discard(start, stop)
        self._flow.discard(start, stop)

    def view(self, latest: Mapping[str, float]) -> TerrainView:
        """What is known; `latest` are the newest values in the history."""
        return {
            "critical_lr_ratio": latest.get(RATIO),
            "secant_curvature": latest.get(BEND),
            "gradient_flow_consistency": latest.get(FLOW),
            "landscape": self._landscape.view(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that is known, as plain values and arrays."""
        return {"landscape": self._landscape.state_dict(), "flow": self._flow.state_dict()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Terrain:
        """What `state_dict` described."""
        terrain = cls()
        terrain._landscape = Landscape.from_state(state["landscape"])
        terrain._flow = GradientFlow.from_state(state["flow"])
        return terrain
