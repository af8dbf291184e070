"""Adds up the sketches of the ranks that share a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

# Steps that wait for their missing ranks; a rank that is slower than this loses the oldest.
WAITING = 64


class Assembly:
    """Sketches by step and rank, until every contributing rank has sent its part of a step.

    Args:
        ranks: ranks whose parts add up to the whole.

    Attributes:
        incomplete: steps given up because a part never came.
    """

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.incomplete = 0
        self._parts: dict[int, dict[int, NDArray[np.float32]]] = {}

    def add(self, step: int, rank: int, part: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Take a part; return the sum once all are there, added in the order of ranks, else None."""
        if self.ranks <= 1:
            return part
        parts = self._parts.setdefault(step, {})
        if any(len(other) != len(part) for other in parts.values()):
            return None
        parts.setdefault(rank, part)
        if len(parts) < self.ranks:
            if len(self._parts) > WAITING:
                del self._parts[min(self._parts)]
                self.incomplete += 1
            return None
        del self._parts[step]
        total = np.zeros(len(part), dtype=np.float64)
        for _, each in sorted(parts.items()):
            total += each
        return total.astype(np.float32)

    def discard(self, rank: int, start: int, stop: int) -> None:
        """Drop the parts of a rank with start ≤ step < stop."""
        for step, parts in list(self._parts.items()):
            if start <= step < stop:
                parts.pop(rank, None)
                if not parts:
                    del self._parts[step]

    def state_dict(self) -> dict[str, Any]:
        """Everything that waits, as plain numbers and arrays."""
        waiting = [
            {"step": step, "rank": rank, "part": part}
            for step, parts in self._parts.items()
            for rank, part in parts.items()
        ]
        return {"ranks": self.ranks, "incomplete": self.incomplete, "waiting": waiting}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Assembly:
        """The assembly that `state_dict` described."""
        assembly = cls(state["ranks"])
        assembly.incomplete = state["incomplete"]
        for entry in state["waiting"]:
            assembly._parts.setdefault(entry["step"], {})[entry["rank"]] = entry["part"]
        return assembly
