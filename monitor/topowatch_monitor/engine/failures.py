"""What could not be analysed of a run, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_REASON = 200  # characters of an exception that are shown


class Failures:
    """Messages of a run that raised an exception instead of being taken in.

    Attributes:
        count: how many.
    """

    def __init__(self) -> None:
        self.count = 0
        self._first_step = 0
        self._last = ""

    def add(self, step: int, error: Exception) -> None:
        """Note a failure at a step."""
        if self.count == 0:
            self._first_step = step
        self.count += 1
        told = f"{type(error).__name__}: {error}".partition("\n")[0][:LONGEST_REASON]
        self._last = f"at step {step} with {told}"

    def discard(self, start: int) -> None:
        """Forget them if they began at step `start` or later: what is superseded matters no more."""
        if self._first_step >= start:
            self.count = 0

    def flag(self) -> tuple[int, str] | None:
        """First step and reason; None without any failure."""
        if self.count == 0:
            return None
        times = "failed" if self.count == 1 else f"failed {self.count} times, the last time"
        return self._first_step, f"the analysis {times} {self._last}; this is a fault of topowatch"

    def state_dict(self) -> dict[str, Any]:
        """Everything noted, as plain values."""
        return {"count": self.count, "first_step": self._first_step, "last": self._last}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Failures:
        """The failures that `state_dict` described."""
        failures = cls()
        failures.count, failures._first_step, failures._last = state["count"], state["first_step"], state["last"]
        return failures
