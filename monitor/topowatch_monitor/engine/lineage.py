"""The lives of one rank: which of them each step belongs to."""

from __future__ import annotations

from typing import NamedTuple

# Above every step that a message can carry.
NEVER = 1 << 63


class Span(NamedTuple):
    """Steps with start ≤ step < stop."""

    start: int
    stop: int

    def __contains__(self, step: object) -> bool:
        return isinstance(step, int) and self.start <= step < self.stop


class Lineage:
    """Start steps of the incarnations of one rank.

    A step belongs to the newest incarnation that starts at or before it: a newer one supersedes all older samples from
    its start step on.
    """

    def __init__(self, starts: dict[int, int] | None = None) -> None:
        self._starts = dict(starts or {})

    def __contains__(self, incarnation: object) -> bool:
        return incarnation in self._starts

    @property
    def newest(self) -> int | None:
        """The newest incarnation; None before the first."""
        return max(self._starts, default=None)

    @property
    def starts(self) -> dict[int, int]:
        """Start step of every incarnation."""
        return dict(self._starts)

    def open(self, incarnation: int, start: int) -> Span | None:
        """Enter an incarnation; return the steps at which it supersedes older ones, None if it is known or has none."""
        if incarnation in self._starts:
            return None
        self._starts[incarnation] = start
        span = self.span(incarnation)
        has_elders = any(other < incarnation for other in self._starts)
        return span if has_elders and span.start < span.stop else None

    def span(self, incarnation: int) -> Span:
        """The steps that belong to an incarnation; raises KeyError if it was never opened."""
        newer = (start for other, start in self._starts.items() if other > incarnation)
        return Span(self._starts[incarnation], min(newer, default=NEVER))
