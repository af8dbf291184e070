"""What is known of a run's layers at its recent samples: tables of samples × layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from numpy.typing import NDArray

    from topowatch_monitor.detect.history import History

    Limits = TypeVar("Limits", bound=Hashable)
    Rule = Callable[["LayerHistory", bool, Limits], str | None]

# What is kept of a layer; NaN where it was not measured. Norms in the unit of the weights, fractions from 0 to 1.
FIELDS = (
    "weight_norm",
    "update_norm",
    "gradient_norm",
    "activation_mean",
    "activation_deviation",
    "activation_kurtosis",
    "zero_fraction",
    "saturated_fraction",
    "attention_entropy",
)


class LayerHistory:
    """Statistics of layers at the latest samples that brought any, ascending in step: at most 2.3 MB by default.

    Args:
        samples: the most samples kept.
        layers: the most layers; those that are named first are kept, and further ones left out.
    """

    def __init__(self, samples: int = 64, layers: int = 1000) -> None:
        self._samples = samples
        self._layers = layers
        self._places: dict[str, int] = {}
        self._steps: list[int] = []
        self._rows: list[NDArray[np.float32]] = []  # fields × layers known when the sample came
        # The least and the most finite values ever, fields × layers; NaN where there was none.
        self._least = self._most = np.empty((len(FIELDS), 0), dtype=np.float32)
        self._first: int | None = None  # step of the first sample that these know
        self._said: dict[Hashable, str | None] = {}

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._steps)

    @property
    def names(self) -> list[str]:
        """Names of the layers, in the order of the columns."""
        return list(self._places)

    @property
    def steps(self) -> list[int]:
        """Steps of the samples, ascending."""
        return list(self._steps)

    def add(self, step: int, names: Sequence[str], values: NDArray[np.float32]) -> None:
        """Take in a sample; of a step that is there already, or is older than a full window, nothing is taken.

        Args:
            step: its step.
            names: k layers.
            values: k × fields, in the order of FIELDS.
        """
        place = _place(self._steps, step)
        known = place < len(self._steps) and self._steps[place] == step
        if known or not len(names) or (place == 0 and len(self._steps) >= self._samples):
            return
        for name in names:
            if len(self._places) < self._layers:
                self._places.setdefault(name, len(self._places))
        kept = [index for index, name in enumerate(names) if name in self._places]
        row = np.full((len(FIELDS), len(self._places)), np.nan, dtype=np.float32)
        row[:, [self._places[names[index]] for index in kept]] = values[kept].T
        self._steps.insert(place, step)
        self._rows.insert(place, row)
        del self._steps[: -self._samples], self._rows[: -self._samples]
        self._note_range(step, row)
        self._said.clear()

    def measured(self, *fields: str, last: int | None = None) -> list[NDArray[np.float64]]:
        """Tables of fields, at the samples at which each of them was measured of some layer.

        Args:
            fields: some of FIELDS.
            last: the most such samples, the newest; all by default.

        Returns:
            One table a field, all of the same samples × all layers; NaN where a layer was not measured.
        """
        indices = [FIELDS.index(field) for field in fields]
        rows: list[NDArray[np.float32]] = []
        for row in reversed(self._rows):
            if len(rows) == last:
                break
            if (~np.isnan(row[indices])).any(axis=1).all():
                rows.append(row)
        tables = np.full((len(indices), len(rows), len(self._places)), np.nan)
        for place, row in enumerate(reversed(rows)):
            tables[:, place, : row.shape[1]] = row[indices]
        return list(tables)

    def ever(self, field: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The least and the most finite value of a field that each layer has ever had; NaN where there was none."""
        index = FIELDS.index(field)
        missing = (0, len(self._places) - self._least.shape[1])
        least, most = (np.pad(each[index], missing, constant_values=np.nan) for each in (self._least, self._most))
        return least, most

    def discard(self, start: int, stop: int | None = None) -> None:
        """Forget samples with start ≤ step (< stop)."""
        low = _place(self._steps, start)
        high = len(self._steps) if stop is None else _place(self._steps, stop)
        del self._steps[low:high], self._rows[low:high]
        if self._first is not None and start <= self._first and stop is None:
            self._least = self._most = np.empty((len(FIELDS), 0), dtype=np.float32)
            self._first = None
        self._said.clear()

    def once(self, rule: Rule[Limits], active: bool, thresholds: Limits) -> str | None:
        """What a rule says of the layers; it is asked anew only once they have changed."""
        key = (rule, active, thresholds)
        if key not in self._said:
            self._said[key] = rule(self, active, thresholds)
        return self._said[key]

    def state_dict(self) -> dict[str, Any]:
        """Everything that is kept, as plain values and arrays."""
        return {
            "samples": self._samples,
            "layers": self._layers,
            "names": self.names,
            "steps": self.steps,
            "rows": list(self._rows),
            "least": self._least,
            "most": self._most,
            "first": self._first,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> LayerHistory:
        """The history that `state_dict` described."""
        history = cls(state["samples"], state["layers"])
        history._places = {name: place for place, name in enumerate(state["names"])}
        history._steps = list(state["steps"])
        history._rows = list(state["rows"])
        history._least, history._most, history._first = state["least"], state["most"], state["first"]
        return history

    def _note_range(self, step: int, row: NDArray[np.float32]) -> None:
        self._first = step if self._first is None else min(self._first, step)
        missing = ((0, 0), (0, row.shape[1] - self._least.shape[1]))
        finite = np.where(np.isfinite(row), row, np.nan)
        self._least = np.fmin(np.pad(self._least, missing, constant_values=np.nan), finite)
        self._most = np.fmax(np.pad(self._most, missing, constant_values=np.nan), finite)


def _place(steps: list[int], step: int) -> int:
    """Where a step belongs among ascending ones: before an equal one."""
    return int(np.searchsorted(steps, step))


def on_layers(rule: Rule[Limits]) -> Callable[[History, bool, Limits], str | None]:
    """Make a detector of a rule that looks at layers alone."""

    def detect(history: History, active: bool, thresholds: Limits) -> str | None:
        return history.layers.once(rule, active, thresholds)

    detect.__doc__ = rule.__doc__
    return detect


def lasting(condition: NDArray[np.bool_], samples: int) -> NDArray[np.bool_]:
    """Where a condition (samples × layers) held at each of the last `samples`; nowhere before there are so many."""
    held: NDArray[np.bool_] = condition[-samples:].all(axis=0) & (len(condition) >= samples)
    return held


def medians(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median of the measured values of each column; NaN where there is none."""
    if not len(values):
        return np.full(values.shape[1], np.nan)
    ordered = np.sort(values, axis=0)  # NaN last
    count = (~np.isnan(values)).sum(axis=0)
    columns = np.arange(values.shape[1])
    low = ordered[np.maximum(count - 1, 0) // 2, columns]
    middle: NDArray[np.float64] = low / 2 + ordered[np.minimum(count // 2, len(values) - 1), columns] / 2
    return middle


def blame(layers: LayerHistory, found: NDArray[np.bool_], badness: NDArray[np.float64]) -> tuple[int, str]:
    """Name the worst of the layers that were found, and how many there are.

    Returns:
        Its column, and words such as "layer 'fc1' (the worst of 3)".
    """
    columns = np.flatnonzero(found)
    worst = int(columns[np.argmax(badness[columns])])
    others = f" (the worst of {len(columns)})" if len(columns) > 1 else ""
    return worst, f"layer {layers.names[worst]!r}{others}"
