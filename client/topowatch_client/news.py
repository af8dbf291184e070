"""Numbers of single steps, from the loop and from the pulse, until an item takes them along."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from topowatch_client import meter, steps
from topowatch_client.pulse import Pulse, norms
from topowatch_client.scalars import ScalarBuffer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch

    from topowatch_client.governor import Governor
    from topowatch_client.pulse import Beats
    from topowatch_client.scalars import Waiting
    from topowatch_client.sketch import Part

_VALUES = 4096  # scalars that may wait for the next sample; beyond that they travel alone
_BEATS = 4  # of the pulse, that wait for each other,
_SECONDS = 1.0  # and so long: what goes wrong at once shows in the next of them
_LATE_SECONDS = 4.0  # nothing waits longer, however few: an alert waits for it


class Taken(NamedTuple):
    """What waited."""

    scalars: Waiting
    beats: Beats


class News:
    """Collects numbers on the rank that speaks for the run.

    Args:
        model: Whose pulse is felt.
        optimizers: The first one's learning rate is told.
        governor: Knows when the pulse is due.
        prompt: Whether four beats travel at once, however short the steps are.
    """

    def __init__(
        self, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], governor: Governor, *, prompt: bool
    ) -> None:
        self.scalars = ScalarBuffer()
        self._pulse = Pulse(norms(model))
        self._optimizers = optimizers
        self._governor = governor
        self._pause = 0.0 if prompt else _SECONDS
        self._taken_at = time.monotonic()

    def __len__(self) -> int:
        return len(self.scalars) + len(self._pulse)

    def feel(self, step: int) -> None:
        """Feel the pulse at the end of `step` where that is due, or get ready for it."""
        if self._governor.beats_at(step):
            began = meter.now()
            self._pulse.beat(step)
            self.note_rate(step)
            self._governor.on_beat(meter.now().minus(began))
        elif self._governor.beats_at(step + 1):
            self._pulse.remember(step)

    def note_rate(self, step: int) -> None:
        """Tell the learning rate of `step`."""
        rate = steps.learning_rate(self._optimizers)
        if rate is not None:
            self.scalars.put(step, "learning_rate", rate)

    def looked(self, step: int, parts: Iterable[Part]) -> None:
        """Take in which parts a look at the end of `step` found."""
        self._pulse.choose(step, parts)

    def due(self) -> bool:
        """Say whether what waits is to travel without a look."""
        waited = time.monotonic() - self._taken_at
        full = len(self._pulse) >= _BEATS and waited >= self._pause
        late = waited >= _LATE_SECONDS and len(self) > 0
        return full or late or len(self.scalars) > _VALUES

    def take(self) -> Taken:
        """Hand out everything and forget it."""
        self._taken_at = time.monotonic()
        return Taken(self.scalars.take(), self._pulse.take())

    def restart(self) -> None:
        """Take in that the job goes on from elsewhere."""
        self._pulse.restart()

    def release(self) -> None:
        """Keep nothing of the job."""
        self._pulse.release()
        self._optimizers = []
