"""The loss on the probes, smoothed: when it was lowest, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.level import noise_of
from topowatch_monitor.detect.series import bounded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from topowatch_monitor.detect.series import Series

# Probe passes in a level: their median bears two odd ones.
WIDTH = 5


@dataclass(frozen=True)
class ProbeCurve:
    """What detectors ask of the probe loss.

    Attributes:
        steps: step of the last pass of each level, ascending.
        levels: medians of 5 neighbouring finite losses, in nats.
        lowest: index of the lowest level.
        noise: robust standard deviation of single losses around the curve.
    """

    steps: NDArray[np.int64]
    levels: NDArray[np.float64]
    lowest: int
    noise: float


def probe_curve(series: Series) -> ProbeCurve | None:
    """Summarise a series of probe losses; None before there are five. Means stand for what is older than its window."""
    steps = np.concatenate([series.old_steps, series.steps])
    values = np.concatenate([series.old, series.values])
    finite = np.isfinite(values)
    steps, values = steps[finite], bounded(values[finite])
    if len(values) < WIDTH:
        return None
    levels = np.median(np.lib.stride_tricks.sliding_window_view(values, WIDTH), axis=1)
    return ProbeCurve(steps[WIDTH - 1 :], levels, int(np.argmin(levels)), noise_of(values))
