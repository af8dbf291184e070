"""When a run began, was last heard of, and how long it pauses between samples."""

from __future__ import annotations

from dataclasses import astuple, dataclass

# How much of the longest pause between samples is forgotten at each sample: a tenth is left of it after 230.
PAUSE_DECAY = 0.99


@dataclass
class Times:
    """Times of a run, Unix seconds; None until known.

    Attributes:
        started_at: when its first life began.
        received_at: when the latest of its records was stored.
        sampled_at: when the latest sample of the present life was taken.
        longest_pause: seconds between samples, at most, lately.
    """

    started_at: float | None = None
    received_at: float | None = None
    sampled_at: float | None = None
    longest_pause: float | None = None

    def began(self, at: float | None) -> None:
        """A life began."""
        if at is not None:
            self.started_at = at if self.started_at is None else min(self.started_at, at)

    def heard(self, at: float | None) -> None:
        """A record was stored."""
        if at is not None:
            self.received_at = at if self.received_at is None else max(self.received_at, at)

    def sampled(self, at: float | None) -> None:
        """A sample was taken."""
        if at is None:
            return
        if self.sampled_at is not None:
            pause = max(0.0, at - self.sampled_at)
            self.longest_pause = max(pause, PAUSE_DECAY * (self.longest_pause or 0.0))
        self.sampled_at = at

    def state(self) -> list[float | None]:
        """All four, for `Times(*state)`."""
        return list(astuple(self))
