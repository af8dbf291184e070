"""One scalar of a run over its steps: recent values exactly, older ones as means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

# Values in one mean when it is made; means are joined in pairs where there would be more than MAX_MEANS of them.
FIRST_STRIDE = 32
MAX_MEANS = 512
HEAD = 32
# Beyond this a value is cut down before it is added to others, so that sums stay finite.
LARGEST = 1e150


class Series:
    """Values of one scalar, ascending in step: the first 32, the recent ones, and means of those between.

    Args:
        capacity: the most recent values kept exactly; at least half of them always are.
    """

    def __init__(self, capacity: int = 2048) -> None:
        self._capacity = max(2 * FIRST_STRIDE, capacity)
        self._steps: NDArray[np.int64] = np.empty(64, dtype=np.int64)
        self._values: NDArray[np.float64] = np.empty(64, dtype=np.float64)
        self._size = 0
        self._head_steps: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._head_values: NDArray[np.float64] = np.empty(0, dtype=np.float64)
        # Bins of old values: the step of the last value, sum, number and highest of finite ones, the number of all.
        self._bin_steps: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._bin_sums: NDArray[np.float64] = np.empty(0, dtype=np.float64)
        self._bin_finite: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._bin_counts: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._stride = FIRST_STRIDE
        self._bin_highest: NDArray[np.float64] = np.empty(0, dtype=np.float64)

    def __len__(self) -> int:
        """Number of recent values."""
        return self._size

    @property
    def steps(self) -> NDArray[np.int64]:
        """Steps of the recent values, ascending (a view)."""
        return self._steps[: self._size]

    @property
    def values(self) -> NDArray[np.float64]:
        """The recent values, NaN and infinities included (a view)."""
        return self._values[: self._size]

    @property
    def head_steps(self) -> NDArray[np.int64]:
        """Steps of the first values of all, at most 32."""
        return self._head_steps

    @property
    def head(self) -> NDArray[np.float64]:
        """The first values of all, at most 32."""
        return self._head_values

    @property
    def old_steps(self) -> NDArray[np.int64]:
        """Last step of each mean in `old`, ascending, all below `steps`."""
        return self._bin_steps

    @property
    def old(self) -> NDArray[np.float64]:
        """Means of what is older than the recent values, each of at least 32 of them; NaN where none was finite."""
        with np.errstate(invalid="ignore", divide="ignore"):
            means: NDArray[np.float64] = self._bin_sums / self._bin_finite
        return means

    @property
    def old_count(self) -> int:
        """Finite values in `old`."""
        return int(self._bin_finite.sum())

    @property
    def old_highest(self) -> float:
        """The highest finite value among those in `old`; −∞ where there is none."""
        return float(np.max(self._bin_highest, initial=-np.inf))

    def extend(self, steps: ArrayLike, values: ArrayLike) -> None:
        """Add values; ones that arrive late are sorted in, a step that is there already keeps its value.

        Args:
            steps: k strictly increasing steps.
            values: k numbers.
        """
        new_steps = np.asarray(steps, dtype=np.int64)
        new_values = np.asarray(values, dtype=np.float64)
        if not len(new_steps):
            return
        if self._size and new_steps[0] <= self._steps[self._size - 1]:
            new_steps, new_values = self._merged(new_steps, new_values)
        # In pieces, so that one long series leaves no buffer behind that is larger than what is kept.
        for start in range(0, len(new_steps), self._capacity):
            piece = slice(start, start + self._capacity)
            self._append(new_steps[piece], new_values[piece])
            if len(self._head_values) < HEAD and not len(self._bin_steps):
                self._head_steps, self._head_values = self.steps[:HEAD].copy(), self.values[:HEAD].copy()
            if self._size > self._capacity:
                self._age(self._size - self._capacity // 2)

    def discard(self, start: int, stop: int | None = None) -> None:
        """Forget values with start ≤ step (< stop); a mean that reaches into that range goes with it."""
        end = np.iinfo(np.int64).max if stop is None else stop
        recent = (self.steps < start) | (self.steps >= end)
        kept_steps, kept_values = self.steps[recent], self.values[recent]
        self._size = 0
        self._append(kept_steps, kept_values)
        # Where the first mean began is known by the head alone, as long as there is one.
        first = self._head_steps[:1] if len(self._head_steps) else np.zeros(1, dtype=np.int64)
        began = np.concatenate([first, self._bin_steps[:-1] + 1])[: len(self._bin_steps)]
        self._keep_bins((self._bin_steps < start) | (began >= end))
        head = (self._head_steps < start) | (self._head_steps >= end)
        self._head_steps, self._head_values = self._head_steps[head], self._head_values[head]

    def state_dict(self) -> dict[str, Any]:
        """Everything that the series holds, as plain numbers and arrays."""
        return {
            "capacity": self._capacity,
            "stride": self._stride,
            "steps": self.steps.copy(),
            "values": self.values.copy(),
            "head_steps": self._head_steps,
            "head_values": self._head_values,
            "bin_steps": self._bin_steps,
            "bin_sums": self._bin_sums,
            "bin_finite": self._bin_finite,
            "bin_counts": self._bin_counts,
            "bin_highest": self._bin_highest,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Series:
        """The series that `state_dict` described."""
        series = cls(state["capacity"])
        series._append(state["steps"], state["values"])
        series._stride, series._bin_highest = state["stride"], state["bin_highest"]
        series._head_steps, series._head_values = state["head_steps"], state["head_values"]
        series._bin_steps, series._bin_sums = state["bin_steps"], state["bin_sums"]
        series._bin_finite, series._bin_counts = state["bin_finite"], state["bin_counts"]
        return series

    def _append(self, steps: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        size = self._size + len(steps)
        if size > len(self._steps):
            room = max(size, 2 * len(self._steps))
            self._steps = np.concatenate([self.steps, np.empty(room - self._size, dtype=np.int64)])
            self._values = np.concatenate([self.values, np.empty(room - self._size, dtype=np.float64)])
        self._steps[self._size : size] = steps
        self._values[self._size : size] = values
        self._size = size

    def _merged(
        self, steps: NDArray[np.int64], values: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Take the recent values out and return them with the new ones sorted in; what is too old for them is lost."""
        if len(self._bin_steps):
            fits = steps > self._bin_steps[-1]
            steps, values = steps[fits], values[fits]
        all_steps = np.concatenate([self.steps, steps])
        # np.unique names the first of equal steps, and the values that were here stand first.
        _, chosen = np.unique(all_steps, return_index=True)
        all_values = np.concatenate([self.values, values])
        self._size = 0
        if not len(self._bin_steps):
            self._head_steps, self._head_values = self._head_steps[:0], self._head_values[:0]
        return all_steps[chosen], all_values[chosen]

    def _age(self, count: int) -> None:
        """Turn the `count` oldest recent values into means."""
        steps, values = self.steps[:count], self.values[:count]
        finite = np.isfinite(values)
        starts = np.arange(0, max(1, count - count % FIRST_STRIDE), FIRST_STRIDE)
        ends = np.append(starts[1:], count) - 1
        self._bin_steps = np.concatenate([self._bin_steps, steps[ends]])
        sums = np.add.reduceat(np.where(finite, bounded(values), 0.0), starts)
        self._bin_sums = np.concatenate([self._bin_sums, sums])
        self._bin_finite = np.concatenate([self._bin_finite, np.add.reduceat(finite.astype(np.int64), starts)])
        self._bin_counts = np.concatenate([self._bin_counts, ends - starts + 1])
        highest = np.maximum.reduceat(np.where(finite, values, -np.inf), starts)
        self._bin_highest = np.concatenate([self._bin_highest, highest])
        kept_steps, kept_values = self.steps[count:].copy(), self.values[count:].copy()
        self._size = 0
        self._append(kept_steps, kept_values)
        if len(self._bin_steps) > MAX_MEANS:
            self._join()  # the new ones, to the stride of the old ones
        while len(self._bin_steps) > MAX_MEANS:
            self._stride *= 2
            self._join()

    def _join(self) -> None:
        """Join neighbouring means until each holds about `_stride` values."""
        group = (np.cumsum(self._bin_counts) - 1) // self._stride
        starts = np.flatnonzero(np.diff(group, prepend=-1))
        ends = np.append(starts[1:], len(group)) - 1
        self._bin_steps = self._bin_steps[ends]
        self._bin_sums = np.add.reduceat(self._bin_sums, starts)
        self._bin_finite = np.add.reduceat(self._bin_finite, starts)
        self._bin_counts = np.add.reduceat(self._bin_counts, starts)
        self._bin_highest = np.maximum.reduceat(self._bin_highest, starts)

    def _keep_bins(self, mask: NDArray[np.bool_]) -> None:
        self._bin_steps, self._bin_sums = self._bin_steps[mask], self._bin_sums[mask]
        self._bin_finite, self._bin_counts = self._bin_finite[mask], self._bin_counts[mask]
        self._bin_highest = self._bin_highest[mask]


def bounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values, finite ones cut down to ±LARGEST; NaN and infinities stay."""
    if not len(values) or np.abs(values).max() <= LARGEST:  # as usual, and faster
        return values
    cut: NDArray[np.float64] = np.where(np.isinf(values), values, np.clip(values, -LARGEST, LARGEST))
    return cut


def median(values: NDArray[np.float64]) -> Any:
    """Median along the last axis, of values that are not NaN; np.median takes ten times as long for a few hundred."""
    ordered = np.sort(values)
    high = values.shape[-1] // 2
    return ordered[..., high] if values.shape[-1] % 2 else ordered[..., high - 1] / 2 + ordered[..., high] / 2
