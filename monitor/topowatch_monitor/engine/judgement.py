"""What the detectors say of one run, kept from sample to sample: which are on, since when, why, and what follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from topowatch_monitor.detect import DETECTORS, detect_all
from topowatch_monitor.detect.instability import instability_score
from topowatch_monitor.detect.level import was_low

if TYPE_CHECKING:
    from collections.abc import Mapping

    from topowatch_monitor.detect import History, Thresholds
    from topowatch_monitor.engine.view import Flag

SEVERITY = {detector.name: detector.severity for detector in DETECTORS}


class Judgement:
    """Flags of one run.

    Args:
        thresholds: when detectors fire.

    Attributes:
        minimum_unstable: whether the run is leaving a minimum, or has nothing but NaN left of one.
        levels: how far each detector had gone when it was last asked; from 1 on it is on.
    """

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self._flags: dict[str, tuple[int, str]] = {}
        self.minimum_unstable = False
        self.levels: dict[str, float] = {}

    @property
    def score(self) -> float | None:
        """How likely the run is to leave its minimum soon, 0 to 1; None before anything was judged."""
        return instability_score(self.levels) if self.levels else None

    def judge(self, history: History, step: int) -> None:
        """Run all detectors at a step, whose values are in the history."""
        found = detect_all(history, self._flags, self._thresholds)
        history.looked()
        self._flags = {name: (self._flags.get(name, (step, ""))[0], reason) for name, reason in found.reasons.items()}
        self.levels = found.levels
        self._judge_minimum(history)

    def rewind(self, history: History, start: int) -> None:
        """Forget flags of steps from `start` on, which the history has forgotten already."""
        self._flags = {name: flag for name, flag in self._flags.items() if flag[0] < start}
        self.levels = {}
        self._judge_minimum(history)

    def views(self, others: Mapping[str, tuple[int, str] | None]) -> list[Flag]:
        """All flags that are on, in the order of the catalogue; `others` are of detectors that look elsewhere."""
        flags = {**self._flags, **others}
        return [
            {"detector": name, "severity": severity, "since_step": flag[0], "reason": flag[1]}
            for name, severity in SEVERITY.items()
            if (flag := flags.get(name)) is not None
        ]

    def state_dict(self) -> dict[str, Any]:
        """Everything that is known, as plain values."""
        flags = {name: list(flag) for name, flag in self._flags.items()}
        return {"flags": flags, "minimum_unstable": self.minimum_unstable, "levels": dict(self.levels)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], thresholds: Thresholds) -> Judgement:
        """The judgement that `state_dict` described."""
        judgement = cls(thresholds)
        judgement._flags = {name: (since, reason) for name, (since, reason) in state["flags"].items()}
        judgement.minimum_unstable = state["minimum_unstable"]
        judgement.levels = dict(state["levels"])
        return judgement

    def _judge_minimum(self, history: History) -> None:
        critical = [name for name in self._flags if SEVERITY[name] == "critical"]
        lost = bool(critical) and was_low(history.curve, history.chance_loss, self._thresholds.low_loss)
        self.minimum_unstable = lost or "non_finite_loss" in critical
