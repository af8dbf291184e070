"""What happened to the flags of a run: each time that one went on or off, with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from topowatch_monitor.engine.view import Flag

MINIMUM_UNSTABLE = "minimum_unstable"
KEPT = 256  # newest events; a flag that goes on and off all the time must not fill the memory


class EventView(TypedDict):
    """One event as it is told.

    Attributes:
        step: of the sample at whose arrival it was noticed.
        detector: whose flag it is; `minimum_unstable` for what follows from the flags.
        on: whether the flag went on.
        severity: of the detector.
        reason: why it went on; of one that went off, what was said last.
        superseded: whether the job has gone back to before it since.
    """

    step: int
    detector: str
    on: bool
    severity: str
    reason: str
    superseded: bool


class _Event(NamedTuple):
    step: int
    detector: str
    on: bool
    severity: str
    reason: str
    superseded: bool = False


class Events:
    """The newest 256 events of one run, in the order of arrival; of the flags that depend on the log alone.

    Those that are not superseded account for the flags that are on, unless older ones were dropped.
    """

    def __init__(self) -> None:
        self._events: list[_Event] = []
        self._on: dict[str, tuple[str, str]] = {}  # severity and reason of what is on, by detector

    @property
    def on(self) -> dict[str, str]:
        """Why what is on is on, by name of the detector, and of `minimum_unstable`."""
        return {name: reason for name, (_, reason) in self._on.items()}

    def note(self, step: int, flags: Iterable[Flag], minimum_unstable: bool) -> None:
        """Take over which flags are on after a sample, and whether the minimum is unstable; what is new is an event."""
        found = {flag["detector"]: (flag["severity"], flag["reason"]) for flag in flags}
        if minimum_unstable:
            critical = [name.replace("_", " ") for name, (severity, _) in found.items() if severity == "critical"]
            found[MINIMUM_UNSTABLE] = "critical", ", ".join(critical)
        gone = [_Event(step, name, False, *self._on[name]) for name in self._on if name not in found]
        come = [_Event(step, name, True, *told) for name, told in found.items() if name not in self._on]
        self._events = [*self._events, *gone, *come][-KEPT:] if gone or come else self._events
        self._on = found

    def supersede(self, start: int) -> None:
        """Mark the events of steps from `start` on, to which the job has gone back: they do not account for flags."""
        self._events = [event._replace(superseded=event.superseded or event.step >= start) for event in self._events]
        standing = {event.detector: event for event in self._events if not event.superseded}
        self._on = {name: (event.severity, event.reason) for name, event in standing.items() if event.on}

    def view(self) -> list[EventView]:
        """All that are kept, the newest last."""
        return [
            {
                "step": event.step,
                "detector": event.detector,
                "on": event.on,
                "severity": event.severity,
                "reason": event.reason,
                "superseded": event.superseded,
            }
            for event in self._events
        ]

    def state_dict(self) -> dict[str, Any]:
        """All that is known, as plain values."""
        return {
            "events": [list(event) for event in self._events],
            "on": {name: list(told) for name, told in self._on.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Events:
        """The events that `state_dict` described."""
        events = cls()
        events._events = [_Event(*event) for event in state["events"]]
        events._on = {name: (severity, reason) for name, (severity, reason) in state["on"].items()}
        return events
