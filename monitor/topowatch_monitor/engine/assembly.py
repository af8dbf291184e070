"""Adds up what the ranks that share a model say of their parts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from topowatch_monitor.engine.lineage import NEVER, Generation

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from numpy.typing import NDArray

    from topowatch_monitor.engine.attendance import Standing
    from topowatch_monitor.engine.lineage import Span
    from topowatch_monitor.engine.reading import Reading

# Steps that wait for their missing parts. Of more, those go first that are multiples of the smallest powers of two: as
# intervals are powers of two, a rank that is behind is the least likely to send them, and the others keep an even pace.
WAITING = 64
# Bytes that wait, over all steps: two steps of 8,192 ranks with sketches of 1,021 numbers.
WAITING_BYTES = 64 << 20
# What a part takes beside its sketch.
OVERHEAD_BYTES = 600


def _largest(values: Sequence[float]) -> float:
    return float(np.max(values))  # NaN if any is


# Scalars of a part, and what they are of the whole, of the values in the order of ranks. A ratio of updates to weights
# is that of the layer, or piece of one, in which it is largest.
WHOLE: dict[str, Callable[[Sequence[float]], float]] = {
    "weight_norm": lambda norms: math.hypot(*norms),
    "update_norm": lambda norms: math.hypot(*norms),
    "gradient_norm": lambda norms: math.hypot(*norms),
    "update_ratio_max": _largest,
    "nonfinite_weights": math.fsum,
}
# A rank says that one only if it is not zero.
COUNTS = frozenset({"nonfinite_weights"})
# All that a rank of a sharded model says of its own part alone; the median of a part has no meaning for the whole.
PARTIAL = frozenset({*WHOLE, "update_ratio_median"})


class Part(NamedTuple):
    """What a rank says of its slices at a step, or what all of them say together of the model.

    Attributes:
        weights: sketch; None where weights are not finite.
        scalars: by name, of those in `WHOLE`.
    """

    weights: NDArray[np.float32] | None
    scalars: Mapping[str, float]


def part_of(reading: Reading) -> Part | None:
    """What a sample of a sharded model says of its part; None for one that brings other things only."""
    scalars = {}
    for name, steps, values in reading.scalars:
        if name in WHOLE and len(steps) and steps[-1] == reading.step:
            scalars[name] = float(values[-1])
    if reading.weights is None and not scalars.get("nonfinite_weights"):
        return None
    return Part(reading.weights, scalars)


def add_up(parts: Sequence[Part]) -> Part:
    """Add parts up, given in the order of ranks; a sum beyond the range of float32 is left out."""
    sketches = [part.weights for part in parts if part.weights is not None]
    whole = None
    if len(sketches) == len(parts):
        total = np.zeros(len(sketches[0]), dtype=np.float64)
        for sketch in sketches:
            total += sketch
        with np.errstate(over="ignore"):
            whole = total.astype(np.float32)
        whole = whole if np.isfinite(whole).all() else None
    scalars = {}
    for name, combine in WHOLE.items():
        values = [part.scalars[name] for part in parts if name in part.scalars]
        if values and (len(values) == len(parts) or name in COUNTS):
            scalars[name] = combine(values)
    return Part(whole, scalars)


class _Place(NamedTuple):
    """A step that waits, of a generation."""

    step: int
    generation: Generation


class Assembly:
    """Parts by step and rank, until every contributing rank of a generation has sent its own.

    Every rank sends its samples in the order of their steps, so that a step without its part is given up once it has
    sent a later one.

    Args:
        standings: how far each rank has come, by rank; whoever makes the assembly keeps them up to date.

    Attributes:
        leader: the rank without whose part nothing is whole: the lowest.
        generation: the one that the leader is in; the steps of others give way to its own.
        incomplete: steps given up although all ranks were to sample at them.
        refused: parts of another dimension than those before, and sums beyond the range of float32.
    """

    def __init__(self, standings: Mapping[int, Standing]) -> None:
        self.leader: int | None = None
        self.generation: Generation | None = None
        self.incomplete = 0
        self.refused = 0
        self._standings = standings
        self._waiting: dict[_Place, dict[int, Part]] = {}
        self._bytes = 0

    def add(self, step: int, rank: int, generation: Generation, part: Part) -> Part | None:
        """Take a part; return the whole once all parts are there, else None."""
        place = _Place(step, generation)
        parts = self._waiting.get(place, {})
        if rank in parts or (not parts and self._is_late(place, rank)):
            return None
        if part.weights is not None and len(part.weights) != _dimension(parts, len(part.weights)):
            self.refused += 1
            return None
        self._waiting[place] = parts
        parts[rank] = part
        self._bytes += _size(part)
        if len(parts) < generation.ranks or self.leader not in parts:
            self._make_room()
            return None
        self._drop(place)
        whole = add_up([parts[each] for each in sorted(parts)])
        self.refused += whole.weights is None and all(each.weights is not None for each in parts.values())
        return whole

    def passed(self, rank: int, generation: Generation, step: int) -> None:
        """Note, before its standing says so, that a rank has come to a step: it sends nothing for earlier ones."""
        for place, parts in list(self._waiting.items()):
            if place.generation == generation and place.step < step and rank not in parts:
                self._give_up(place)

    def supersede(self, span: Span, generations: Container[Generation]) -> None:
        """Drop what waits in a span of steps and is of these generations, which the leader has left there."""
        for place in list(self._waiting):
            if place.step in span and place.generation in generations:
                self._drop(place)

    def discard(self, rank: int, span: Span) -> None:
        """Drop the parts of a rank in a span of steps, which a newer life of it has taken over."""
        for place, parts in list(self._waiting.items()):
            if place.step in span and rank in parts:
                self._bytes -= _size(parts.pop(rank))
                if not parts:
                    del self._waiting[place]

    def state_dict(self) -> dict[str, Any]:
        """Everything that waits, as plain numbers and arrays."""
        waiting = [
            {"step": place.step, "generation": list(place.generation), "rank": rank, "part": list(part)}
            for place, parts in self._waiting.items()
            for rank, part in parts.items()
        ]
        return {
            "leader": self.leader,
            "generation": None if self.generation is None else list(self.generation),
            "incomplete": self.incomplete,
            "refused": self.refused,
            "waiting": waiting,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], standings: Mapping[int, Standing]) -> Assembly:
        """The assembly that `state_dict` described."""
        assembly = cls(standings)
        assembly.leader = state["leader"]
        assembly.generation = None if state["generation"] is None else Generation(*state["generation"])
        assembly.incomplete = state["incomplete"]
        assembly.refused = state["refused"]
        for entry in state["waiting"]:
            part = Part(*entry["part"])
            place = _Place(entry["step"], Generation(*entry["generation"]))
            assembly._waiting.setdefault(place, {})[entry["rank"]] = part
            assembly._bytes += _size(part)
        return assembly

    def _is_late(self, place: _Place, rank: int) -> bool:
        """Whether another rank has sent its part of a step of which nothing waits, or has passed it."""
        return any(
            each.part >= place.step and each.generation == place.generation and other != rank
            for other, each in self._standings.items()
        )

    def _make_room(self) -> None:
        while len(self._waiting) > WAITING or self._bytes > WAITING_BYTES:
            self._give_up(min(self._waiting, key=self._worth))

    def _worth(self, place: _Place) -> tuple[bool, int, int]:
        """What a step that waits is worth beside others: the largest power of two that divides it, then its age."""
        divisor = place.step & -place.step
        return place.generation == self.generation, divisor or NEVER, place.step

    def _give_up(self, place: _Place) -> None:
        parts = self._waiting[place]
        self.incomplete += all(
            place.step % each.interval == 0
            for rank, each in self._standings.items()
            if each.generation == place.generation and rank not in parts
        )
        self._drop(place)

    def _drop(self, place: _Place) -> None:
        self._bytes -= sum(map(_size, self._waiting.pop(place).values()))


def _dimension(parts: Mapping[int, Part], default: int) -> int:
    """Numbers in the sketches that are there."""
    return next((len(part.weights) for part in parts.values() if part.weights is not None), default)


def _size(part: Part) -> int:
    return (0 if part.weights is None else part.weights.nbytes) + OVERHEAD_BYTES
