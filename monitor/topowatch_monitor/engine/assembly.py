"""Adds up the sketches of the ranks that share a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

# Steps that wait for their missing ranks; a rank that is slower than this loses the oldest.
WAITING = 64
# Bytes that wait, over all steps: two steps of 8,192 ranks with sketches of 1,021 numbers.
WAITING_BYTES = 64 << 20
# What a part takes beside its numbers.
OVERHEAD_BYTES = 200


class Assembly:
    """Sketches by step and rank, until every contributing rank has sent its part of a step.

    Args:
        ranks: ranks whose parts add up to the whole.

    Attributes:
        incomplete: steps given up because a part never came, or came too late.
        refused: parts of another dimension than those before, and sums beyond the range of float32.
    """

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.incomplete = 0
        self.refused = 0
        self._parts: dict[int, dict[int, NDArray[np.float32]]] = {}
        self._bytes = 0
        # Steps below this were given up; what comes for them is late.
        self._open_from = 0

    def add(self, step: int, rank: int, part: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Take a part; return the sum once all are there, added in the order of ranks, else None."""
        if self.ranks <= 1:
            return part
        parts = self._parts.get(step, {})
        if step < self._open_from or rank in parts:
            return None
        if len(next(iter(parts.values()), part)) != len(part):
            self.refused += 1
            return None
        self._parts[step] = parts
        parts[rank] = part
        self._bytes += _size(part)
        if len(parts) < self.ranks:
            while len(self._parts) > WAITING or self._bytes > WAITING_BYTES:
                self._give_up(min(self._parts))
            return None
        self._drop(step)
        total = np.zeros(len(part), dtype=np.float64)
        for _, each in sorted(parts.items()):
            total += each
        with np.errstate(over="ignore"):
            whole = total.astype(np.float32)
        fits = bool(np.isfinite(whole).all())
        self.refused += not fits
        return whole if fits else None

    def discard(self, rank: int, start: int, stop: int) -> None:
        """Drop the parts of a rank with start ≤ step < stop; steps from `start` on may come again."""
        self._open_from = min(self._open_from, start)
        for step, parts in list(self._parts.items()):
            if start <= step < stop and rank in parts:
                self._bytes -= _size(parts.pop(rank))
                if not parts:
                    del self._parts[step]

    def resize(self, ranks: int) -> None:
        """Expect another number of ranks from now on; what waits is given up."""
        if ranks != self.ranks:
            self.ranks = ranks
            for step in sorted(self._parts):
                self._give_up(step)
            self._open_from = 0

    def state_dict(self) -> dict[str, Any]:
        """Everything that waits, as plain numbers and arrays."""
        waiting = [
            {"step": step, "rank": rank, "part": part}
            for step, parts in self._parts.items()
            for rank, part in parts.items()
        ]
        return {
            "ranks": self.ranks,
            "incomplete": self.incomplete,
            "refused": self.refused,
            "open_from": self._open_from,
            "waiting": waiting,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Assembly:
        """The assembly that `state_dict` described."""
        assembly = cls(state["ranks"])
        assembly.incomplete = state["incomplete"]
        assembly.refused = state["refused"]
        assembly._open_from = state["open_from"]
        for entry in state["waiting"]:
            assembly._parts.setdefault(entry["step"], {})[entry["rank"]] = entry["part"]
            assembly._bytes += _size(entry["part"])
        return assembly

    def _give_up(self, step: int) -> None:
        self._drop(step)
        self.incomplete += 1
        self._open_from = max(self._open_from, step + 1)

    def _drop(self, step: int) -> None:
        self._bytes -= sum(map(_size, self._parts.pop(step).values()))


def _size(part: NDArray[np.float32]) -> int:
    return part.nbytes + OVERHEAD_BYTES
