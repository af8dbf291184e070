"""Ratios of step times with bootstrap intervals; rounds, in which every side had its turn, are drawn anew."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    Array = np.ndarray[Any, np.dtype[Any]]

DRAWS = 2000
INTERVAL = (2.5, 97.5)  # percentiles
STATISTICS = {
    "median": lambda wall: np.median(wall, axis=-1),
    "mean": lambda wall: np.mean(wall, axis=-1),
    "p99": lambda wall: np.percentile(wall, 99, axis=-1),
}


@dataclass
class Times:
    """What the steps of one side took, in seconds, a row a round."""

    wall: list[list[float]] = field(default_factory=list)
    cpu: list[list[float]] = field(default_factory=list)
    helpers: list[float] = field(default_factory=list)  # processor time of other processes that belong to the side

    def statistics(self, chosen: Array) -> dict[str, Array]:
        """Median, mean and p99 of wall time and the mean of processor time, for draws × rounds."""
        wall = np.array(self.wall)[chosen].reshape(len(chosen), -1)
        found = {name: statistic(wall) for name, statistic in STATISTICS.items()}
        steps = len(self.wall[0])
        cpu = (np.sum(self.cpu, axis=1) + np.array(self.helpers)) / steps
        return {**found, "cpu": cpu[chosen].mean(axis=1)}


def _with_interval(value: float, drawn: Array) -> list[float]:
    low, high = np.percentile(drawn, INTERVAL)
    return [float(value), float(low), float(high)]


def compare(sides: Mapping[str, Times], bare: str, control: str) -> dict[str, dict[str, Any]]:
    """Return by side and statistic: seconds, the ratio to bare and that over the control's, with their intervals."""
    rounds = len(sides[bare].wall)
    everything = np.arange(rounds)[None]
    drawn = np.random.default_rng(0).integers(rounds, size=(DRAWS, rounds))
    whole = {name: times.statistics(everything) for name, times in sides.items()}
    draws = {name: times.statistics(drawn) for name, times in sides.items()}
    return {
        name: {
            kind: {
                "seconds": float(whole[name][kind][0]),
                "ratio": _with_interval(
                    (whole[name][kind] / whole[bare][kind])[0], draws[name][kind] / draws[bare][kind]
                ),
                "above": _with_interval(
                    (whole[name][kind] / whole[control][kind])[0], draws[name][kind] / draws[control][kind]
                ),
            }
            for kind in whole[name]
        }
        for name in sides
    }
