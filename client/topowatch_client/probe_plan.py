"""Which outputs a probe pass looks at, and in how many calls: pure functions of shapes, the same on every rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from topowatch_client.messages import Array

# Output numbers of one call of the model: 16 MiB of float32.
BUDGET = 1 << 22
_MICRO_BATCH = 64
# Positions of one sequence, where there are sequences enough: neighbours tell much the same.
_A_SEQUENCE = 16


@dataclass(frozen=True)
class Plan:
    """What is looked at.

    Attributes:
        examples: int64 (e), which examples.
        offsets: int64 (e × k), ascending: which positions of each.
        positions: Output positions that one example has.
        classes: Outputs a position.
        batch: Examples a call.
        crowded: One example's outputs exceed the budget, so that examples go one at a time.
    """

    examples: Array
    offsets: Array
    positions: int
    classes: int
    batch: int
    crowded: bool

    @property
    def count(self) -> int:
        """Positions in all."""
        return int(self.offsets.size)

    def parts(self) -> Iterator[slice]:
        """Yield the examples of each call, as indices into `examples`."""
        for first in range(0, len(self.examples), self.batch):
            yield slice(first, min(first + self.batch, len(self.examples)))

    def kept(self, part: slice) -> Array:
        """Return which output rows of a call are looked at, int64, as the call gives them: example after example."""
        offsets = self.offsets[part]
        first: Array = np.arange(len(offsets))[:, None] * self.positions
        kept: Array = (first + offsets).reshape(-1)
        return kept


def plan(counted: Array, classes: int, wanted: int, budget: int) -> Plan:
    """Choose examples and positions, evenly spaced.

    Args:
        counted: bool (examples × positions): which positions may be looked at; at least one.
        classes: Outputs a position.
        wanted: Positions in all, at most. Where positions of few examples must do and classes are many, the budget
            allows fewer.
        budget: Output numbers that one call may make where positions can be picked.
    """
    positions = counted.shape[1]
    each = counted.sum(axis=1)
    sizes = [min(_A_SEQUENCE, positions, wanted)]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    reach = [size * min(int((each >= size).sum()), wanted // size) for size in sizes]
    # A few positions less are no reason to look at more sequences.
    size = next(size for size, reached in zip(sizes, reach, strict=True) if reached >= 0.9 * max(reach))
    able = np.flatnonzero(each >= size)
    examples = able[spread(len(able), wanted // size)]
    size = max(1, min(wanted // len(examples), int(each[examples].min()), budget // classes))
    offsets = np.stack([_middles(np.flatnonzero(counted[example]), size) for example in examples])
    crowded = positions > 1 and positions * classes > budget
    batch = 1 if crowded else max(1, min(_MICRO_BATCH, budget // (positions * classes)))
    return Plan(examples, offsets, positions, classes, batch, crowded)


def spread(available: int, wanted: int) -> Array:
    """Return at most `wanted` indices below `available`, evenly spaced, int64."""
    return np.arange(available) if available <= wanted else np.arange(wanted) * available // wanted


def _middles(places: Array, wanted: int) -> Array:
    """Return the middles of `wanted` equal parts of `places`."""
    chosen: Array = places[(2 * np.arange(wanted) + 1) * len(places) // (2 * wanted)]
    return chosen
