"""Samples keep arriving that a newer incarnation supersedes, while that one is silent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class SupersededSamplesThresholds:
    """When superseded samples count as a job of their own, and not as the last ones of a job that was resumed.

    Attributes:
        samples: samples in a row; with fewer there is no telling.
        seconds: time over which they arrived. A spool that is sent late, after its job was resumed elsewhere, arrives
            in seconds.
    """

    samples: int = 8
    seconds: float = 30.0


class Streak(NamedTuple):
    """Superseded samples of one rank since its newest incarnation was last heard of.

    Attributes:
        incarnation: the one that sends them.
        newest: the one that supersedes them. Both are milliseconds since 1970 by the clock of the job's host.
        samples: how many.
        first_step: step of the first.
        first_at: Unix seconds at which the first arrived; None where that is unknown.
        last_at: when the last did.
    """

    incarnation: int
    newest: int
    samples: int
    first_step: int
    first_at: float | None
    last_at: float | None


def detect(streak: Streak, thresholds: SupersededSamplesThresholds) -> str | None:
    """Say which incarnation sends in vain; None while it may be a late rest. The newest one's next sample releases."""
    if streak.samples < thresholds.samples or streak.first_at is None or streak.last_at is None:
        return None
    if streak.last_at - streak.first_at < thresholds.seconds:
        return None
    ahead = (streak.newest - streak.incarnation) / 1000
    return (
        f"{streak.samples} samples from step {streak.first_step} on are stored but not on the path: incarnation"
        f" {streak.newest} covers their steps and is {ahead:.0f} s newer than theirs, {streak.incarnation}, but is"
        f" silent; look for two jobs with this run name, or for a host whose clock is behind"
    )
