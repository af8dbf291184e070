"""The newest slice of a run's loss, and what its basin is like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from topowatch_monitor.engine.reading import Plane


class LandscapeView(TypedDict):
    """A slice of the loss, or why there is none. None where nothing is known; see `Basin` for the numbers.

    Attributes:
        request: id of the request that it answers.
        step: at whose end the weights were its centre.
        problem: why the job took none for the request; the rest is of the slice before.
        extent: half the side of the plane, in filter norms.
        values: losses, row after row; `side` of them make a row.
    """

    request: str
    step: int | None
    problem: str
    basin_depth: float | None
    escape_height: float | None
    total_persistence: float | None
    side: int
    extent: float
    values: list[float]


_NONE: LandscapeView = {
    "request": "",
    "step": None,
    "problem": "",
    "basin_depth": None,
    "escape_height": None,
    "total_persistence": None,
    "side": 0,
    "extent": 0.0,
    "values": [],
}


class Landscape:
    """Keeps the newest slice."""

    def __init__(self) -> None:
        self._view: LandscapeView | None = None

    def add(self, plane: Plane) -> LandscapeView | None:
        """Take a slice and measure it; of a refusal only the words, beside the numbers of the slice before.

        One that is older than the one that is there comes late, and is left out: None.
        """
        if not plane.values.size:
            self._view = {**(self._view or _NONE), "request": plane.request, "problem": plane.problem}
            return self._view
        newest = None if self._view is None else self._view["step"]
        if newest is not None and plane.step < newest:
            return None
        # Imported here: it brings in scipy and more, for which commands that only print a view need not wait.
        from topowatch_monitor.topology.basin import basin

        found = basin(plane.values)
        self._view = {
            "request": plane.request,
            "step": plane.step,
            "problem": "",
            "basin_depth": None if found is None else found.depth,
            "escape_height": None if found is None else found.escape_height,
            "total_persistence": None if found is None else found.total_persistence,
            "side": plane.values.shape[1],
            "extent": plane.extent,
            "values": [float(value) for value in plane.values.ravel()],
        }
        return self._view

    def discard(self, start: int, stop: int | None = None) -> None:
        """Forget a slice through the weights of start ≤ step (< stop)."""
        step = None if self._view is None else self._view["step"]
        if step is not None and start <= step < (np.inf if stop is None else stop):
            self._view = None

    def view(self) -> LandscapeView | None:
        """The newest slice; None before the first."""
        return None if self._view is None else self._view.copy()

    def state_dict(self) -> dict[str, Any]:
        """Everything that is known, as plain values."""
        return {"view": self._view}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Landscape:
        """What `state_dict` described."""
        landscape = cls()
        landscape._view = state["view"]
        return landscape
