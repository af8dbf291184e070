"""The forecasts that were made of a run, as the log holds them: to be scored once it has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from topowatch_protos.v1 import log_pb2

MOST = 128  # of a run


class MadeForecast(NamedTuple):
    """A forecast of what a run ends with, made at the end of `step`."""

    step: int
    metric: str
    value: float
    lower: float
    upper: float


class MadeForecasts:
    """Forecasts of one run, ascending in step; of one step and metric the first that was made counts."""

    def __init__(self) -> None:
        self._made: list[MadeForecast] = []

    @property
    def made(self) -> list[MadeForecast]:
        """All of them, ascending in step."""
        return list(self._made)

    def add(self, record: log_pb2.Forecast) -> None:
        """Take one; an abstention, or one of no later step than the newest of that metric, is left out."""
        newest = next((made.step for made in reversed(self._made) if made.metric == record.metric), -1)
        if record.abstained or record.step <= newest:
            return
        self._made.append(MadeForecast(record.step, record.metric, record.value, record.lower, record.upper))
        del self._made[:-MOST]

    def discard(self, start: int, stop: int | None = None) -> None:
        """Forget those of steps with start ≤ step (< stop)."""
        self._made = [each for each in self._made if each.step < start or (stop is not None and each.step >= stop)]

    def state_dict(self) -> dict[str, Any]:
        """All of them, as plain values."""
        return {"made": [list(each) for each in self._made]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> MadeForecasts:
        """What `state_dict` described."""
        forecasts = cls()
        forecasts._made = [MadeForecast(*each) for each in state["made"]]
        return forecasts
