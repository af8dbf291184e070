"""What detectors look at: the scalars of one run and statistics of its layers, over its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from topowatch_monitor.detect.layers import LayerHistory
from topowatch_monitor.detect.level import Curve, curve_of, learned
from topowatch_monitor.detect.probe_curve import ProbeCurve, probe_curve
from topowatch_monitor.detect.series import Series

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Hashable, Mapping

    from numpy.typing import ArrayLike, NDArray

# Names that detectors or the view of a run read; they always find room.
KNOWN_NAMES = frozenset(
    {
        "loss",
        "probe_loss",
        "learning_rate",
        "representation_rank",
        "update_ratio_max",
        "update_norm",
        "weight_norm",
        "gradient_norm",
        "nonfinite_weights",
        "critical_lr_ratio",
        "secant_curvature",
        "basin_depth",
        "gradient_flow_consistency",
        "pulse_gradient_norm",
        "pulse_update_ratio",
        "norm_drift",
        "path_loop",
    }
)

_NOTHING = Series(0)


class History:
    """Bounded series of a run's scalars by name.

    Args:
        capacity: the most recent values of a name kept exactly.
        names: the most names; further ones are left out, except those that detectors read.

    Attributes:
        layers: statistics of the layers at the recent samples.
        chance_loss: probe loss of a model that knows nothing, in nats; None where it is not known.
        resumed: whether the run began at a checkpoint, so that its first values are not those of an untrained model.
    """

    def __init__(self, capacity: int = 2048, names: int = 64) -> None:
        self._capacity = capacity
        self._names = names
        self._series: dict[str, Series] = {}
        self._curve: Curve | None = None
        self._curve_before: Curve | None = None  # of fewer values of the same
        self._said: dict[str, tuple[Hashable, str | None]] = {}
        self._learned: dict[Hashable, int | None] = {}  # the newest answer
        self._probed: tuple[ProbeCurve | None] | None = None  # not known yet
        self._fresh: dict[str, list[int]] = {}  # steps that came since detectors last looked
        self.layers = LayerHistory()
        self.chance_loss: float | None = None
        self.resumed = False

    def __getitem__(self, name: str) -> Series:
        """The series of a name; an empty one where nothing was logged."""
        return self._series.get(name, _NOTHING)

    @property
    def loss(self) -> Series:
        """The loss as logged by the user; where none is logged, the mean loss on the probes."""
        found = self._series.get("loss")
        return found if found is not None and len(found) else self["probe_loss"]

    @property
    def curve(self) -> Curve:
        """Level and noise of `loss`; computed once for all who ask between two changes."""
        if self._curve is None:
            self._curve = self._curve_before = curve_of(self.loss, self._curve_before)
        return self._curve

    def learned(self, share: float) -> int | None:
        """Return the step from which on the run had learned something; see `level.learned`. 0 after a checkpoint."""
        if self.resumed:
            return 0
        key = share, self.chance_loss, self.curve.moment, self.curve.count > 0
        if key not in self._learned:
            self._learned = {key: learned(self.curve, self.loss, share, self.chance_loss)}
        return self._learned[key]

    def judged_from(self, name: str, share: float, young: int) -> int | None:
        """Return the step from which on values of a name count: where the run had learned; None while it is too young.

        Args:
            name: of the series.
            share: see `learned`.
            young: values after which all count, though nobody can say that anything was learned.
        """
        start = self.learned(share)
        series = self[name]
        return 0 if start is None and len(series) + series.old_count >= young else start

    def once(self, name: str, moment: Hashable, ask: Callable[[], str | None]) -> str | None:
        """What `ask` returns; it is asked anew only at another moment, or once something was forgotten or came late."""
        if name not in self._said or self._said[name][0] != moment:
            self._said[name] = moment, ask()
        return self._said[name][1]

    @property
    def probe_curve(self) -> ProbeCurve | None:
        """Levels of `probe_loss`; computed once for all who ask between two changes of it."""
        if self._probed is None:
            self._probed = (probe_curve(self["probe_loss"]),)
        return self._probed[0]

    @property
    def latest(self) -> dict[str, float]:
        """The newest value of every name."""
        return {name: float(series.values[-1]) for name, series in self._series.items() if len(series)}

    def extend(self, name: str, steps: ArrayLike, values: ArrayLike) -> None:
        """Add values of a scalar at strictly increasing steps; see `Series.extend`."""
        series = self._series.get(name)
        if series is None:
            others = len(self._series.keys() - KNOWN_NAMES)
            if name not in KNOWN_NAMES and others >= self._names - len(KNOWN_NAMES):
                return
            series = self._series[name] = Series(self._capacity)
        newest = int(series.steps[-1]) if len(series) else None
        series.extend(steps, values)
        new = np.asarray(steps).tolist()
        self._fresh.setdefault(name, []).extend(new)
        if newest is None or (new and new[0] <= newest):
            self._forget_curve()
        self._curve = None
        self._probed = None if name == "probe_loss" else self._probed

    def fresh(self, name: str) -> NDArray[np.intp]:
        """Places of the values of a name that came since `looked` was last called, however old their steps are.

        A value may come with a later item than those of its step: the loss of a step is logged after its sample.
        """
        series, fresh = self[name], self._fresh.get(name, [])
        count, steps = len(fresh), series.steps
        # As a rule they are the newest, one after the other.
        if count and count <= len(steps) and steps[-count:].tolist() == fresh:
            return np.arange(len(steps) - count, len(steps))
        new = np.array(sorted(fresh), dtype=np.int64)
        places = np.searchsorted(steps, new)
        known = places < len(series)
        known[known] &= steps[places[known]] == new[known]
        return places[known]

    def looked(self) -> None:
        """Take note that detectors have seen all that there is."""
        self._fresh.clear()

    def discard(self, start: int, stop: int | None = None, names: Container[str] | None = None) -> None:
        """Forget values with start ≤ step (< stop), of these names or, with the layers, of all."""
        for name, series in self._series.items():
            if names is None or name in names:
                series.discard(start, stop)
        if names is None:
            self.layers.discard(start, stop)
        self._forget_curve()
        self._probed = None

    def forget(self, name: str) -> None:
        """Forget a scalar: what comes under its name from now on cannot be compared with what came before."""
        self._series.pop(name, None)
        self._forget_curve()
        self._probed = None

    def state_dict(self) -> dict[str, Any]:
        """Everything that the history holds, as plain numbers and arrays."""
        return {
            "capacity": self._capacity,
            "names": self._names,
            "fresh": {name: list(steps) for name, steps in self._fresh.items()},
            "chance_loss": self.chance_loss,
            "resumed": self.resumed,
            "layers": self.layers.state_dict(),
            "series": {name: series.state_dict() for name, series in self._series.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> History:
        """The history that `state_dict` described."""
        history = cls(state["capacity"], state["names"])
        history._fresh = {name: list(steps) for name, steps in state["fresh"].items()}
        history.chance_loss = state["chance_loss"]
        history.resumed = state["resumed"]
        history.layers = LayerHistory.from_state(state["layers"])
        history._series = {name: Series.from_state(series) for name, series in state["series"].items()}
        return history

    def _forget_curve(self) -> None:
        self._curve = self._curve_before = None
        self._said.clear()
        self._learned.clear()
