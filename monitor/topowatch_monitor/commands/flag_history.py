"""Which flags a recorded run raises, and when, under given thresholds: all of them, over every life of the job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from topowatch_monitor.detect.departure import departure
from topowatch_monitor.engine.run_state import RunState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from topowatch_monitor.commands.records import Key
    from topowatch_monitor.engine.told import RunSettings
    from topowatch_monitor.store.log import Record


@dataclass
class Flagged:
    """A flag: on from the sample of step `on` until that of step `off`; None where it stayed on."""

    detector: str
    on: int
    off: int | None
    reason: str


@dataclass
class Life:
    """The run from one rewind of its job to the next.

    Attributes:
        start: first step.
        stop: one above the last.
        flags: in the order in which they went on.
        loss_steps: steps of the losses that stood at its end, ascending; those before `start` are of lives before.
        losses: of these steps.
    """

    start: int
    stop: int
    flags: list[Flagged] = field(default_factory=list)
    loss_steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def departure(self) -> int | None:
        """The step at which the loss was lost; None if it never was or was not logged at every step."""
        if not self.loss_steps or self.loss_steps[-1] - self.loss_steps[0] + 1 != len(self.loss_steps):
            return None
        at = departure(np.asarray(self.losses, dtype=np.float64))
        return None if at is None else self.loss_steps[0] + at

    def intervals(self, detector: str) -> list[tuple[int, int | None]]:
        """When a detector was on."""
        return [(flag.on, flag.off) for flag in self.flags if flag.detector == detector]


def lives_of(key: Key, records: Iterable[Record], settings: RunSettings) -> Iterator[Life]:
    """Yield the lives of a run's job, from the first on; those that brought no sample are left out."""
    state = RunState(*key, settings)
    life: Life | None = None
    for record in records:
        state.apply(record.kind, record.payload)
        if life is not None and (state.step is None or state.step < life.stop - 1):
            yield life
            life = _begun_after(life, -1 if state.step is None else state.step, state)
        if state.step is not None:
            _follow(life := life or Life(state.step, state.step), state, state.step)
    if life is not None and life.stop > life.start:
        yield life


def _follow(life: Life, state: RunState, step: int) -> None:
    """Note what a record has changed, `step` being the latest one."""
    steps, losses = _losses_after(state, life.loss_steps[-1] if life.loss_steps else -1)
    if len(steps) and life.stop == life.start:  # nothing was seen yet: the first sample tells of steps before its own
        life.start = min(life.start, int(steps[0]))
    life.loss_steps += steps.tolist()
    life.losses += losses.tolist()
    life.stop = max(life.stop, step + 1)
    running = {flag.detector: flag for flag in life.flags if flag.off is None}
    on = state.told.events.on
    for name in running.keys() - on.keys():
        running[name].off = step
    life.flags += [Flagged(name, step, None, reason) for name, reason in on.items() if name not in running]


def _begun_after(before: Life, step: int, state: RunState) -> Life:
    """The life that begins after a step to which the job has gone back, with the losses and flags that still stand."""
    kept = int(np.searchsorted(before.loss_steps, step, side="right"))
    flags = [Flagged(name, step + 1, None, reason) for name, reason in state.told.events.on.items()]
    return Life(step + 1, step + 1, flags, before.loss_steps[:kept], before.losses[:kept])


def _losses_after(state: RunState, step: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    series = state.history["loss"]
    new = slice(int(np.searchsorted(series.steps, step, side="right")), None)
    return series.steps[new], series.values[new]
