"""No sample has come for longer than the run's own pauses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StalledRunThresholds:
    """When silence counts. It depends on the clock, and is judged when somebody looks.

    Attributes:
        seconds: silence that is always allowed: evaluation, a checkpoint, a slow disk.
        pauses: times the longest pause that the run has lately made.
        lost_seconds: silence after which the run is called lost, unless it pauses that long by habit.
    """

    seconds: float = 120.0
    pauses: float = 3.0
    lost_seconds: float = 900.0


def detect(silence: float, longest_pause: float | None, thresholds: StalledRunThresholds) -> str | None:
    """Say how long nothing has come; None while that is usual for the run. The next sample releases it.

    Args:
        silence: seconds since the last sample.
        longest_pause: seconds of the longest pause that the run has lately made; None before its second sample.
        thresholds: when silence counts.
    """
    if silence <= max(thresholds.seconds, thresholds.pauses * (longest_pause or 0.0)):
        return None
    usual = "" if longest_pause is None else f"; its longest pause lately was {longest_pause:.0f} s"
    return f"no sample for {silence:.0f} s{usual}"


def is_lost(silence: float, longest_pause: float | None, thresholds: StalledRunThresholds) -> bool:
    """Whether the silence is so long that the run is given up."""
    return silence > max(thresholds.lost_seconds, thresholds.pauses * (longest_pause or 0.0))
