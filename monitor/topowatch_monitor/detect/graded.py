"""What detectors that measure have in common: how far something has gone, in units of what is an alarm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Measure:
    """What a detector sees.

    Attributes:
        level: 0 where all is as usual; from 1 on the detector fires. May be infinite.
        reason: what that is, for people.
    """

    level: float
    reason: str


class _Releases(Protocol):
    @property
    def release(self) -> float: ...


def is_on(measured: Measure, thresholds: _Releases, *, active: bool) -> bool:
    """Whether a detector is on: it fires at 1 and lets go below the threshold `release`."""
    return measured.level >= (thresholds.release if active else 1.0)
