"""Losses at weights that the model does not have: the critical step along the last update, and slices on demand.

Both are rarer than probe passes, on a budget of their own, and leave the weights as they were to the last bit.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from topowatch_client import critical, names, steps
from topowatch_client.displaced import ImmovableError, copies, trainable
from topowatch_client.governor import Spent
from topowatch_client.guard import from_signal_handler
from topowatch_client.last_batch import NO_LOSS, LastBatch
from topowatch_client.messages import CriticalStep, LossSlice
from topowatch_client.meter import Span
from topowatch_client.slices import EXTENT, Slice
from topowatch_client.wishes import Inbox

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch

    from topowatch_client.governor import Governor
    from topowatch_client.probes import Probe
    from topowatch_client.sketch import Part
    from topowatch_client.weights import Weights
    from topowatch_client.wishes import SliceWish

_SEVERAL = (
    "no probe set with targets was given, and with several processes the last batch is not passed again: "
    "pass probe=(inputs, targets) to attach"
)
_log = logging.getLogger("topowatch")


class Findings(NamedTuple):
    """What a sample takes along."""

    critical: CriticalStep | None = None
    loss_slice: LossSlice | None = None
    losses: torch.Tensor | None = None  # of the slice, on the device
    points: int | None = None  # of the slice, so far
    gradient: torch.Tensor | None = None  # its sketch


class _Before(NamedTuple):
    """The weights at the end of a step."""

    step: int
    weights: list[torch.Tensor]
    span: Span


class _Underway(NamedTuple):
    """A slice that is being taken."""

    wish: SliceWish
    step: int
    slice: Slice


class Excursions:
    """Looks at what the loss is elsewhere, where the governor has room for it.

    Args:
        weights: Of the model.
        optimizers: The first one's learning rate goes with a critical step.
        governor: Knows when.
        spool: The writer's directory, where slices are asked for.
        probe: Returns the probe, if there is one now.
        alone: Whether this process is the only one of the job; with others, the last batch is not passed again, because
            the model may wait for them.

    Attributes:
        problem: Why nothing can be looked at, in words, or None.
    """

    def __init__(
        self,
        weights: Weights,
        optimizers: Sequence[torch.optim.Optimizer],
        governor: Governor,
        spool: Path,
        probe: Callable[[], Probe | None],
        *,
        alone: bool,
    ) -> None:
        self.problem: str | None = None
        self._weights = weights
        self._model: torch.nn.Module | None = weights.shards.model
        self._optimizers = optimizers
        self._governor = governor
        self._probe = probe
        self._inbox = Inbox(spool)
        self._alone = alone
        self._batch = LastBatch(weights.shards.model)
        self._before: _Before | None = None
        self._wish: SliceWish | None = None
        self._underway: _Underway | None = None
        self._found = Findings()
        self._point_span: Span | None = None

    def due(self, step: int) -> bool:
        """Say whether there is something to do at the end of `step`."""
        if self.problem is not None or self._model is None:
            return False
        if self._wish is not None:
            return self._governor.points_at(step)
        return self._governor.searches_at(step) or self._governor.searches_at(step + 1)

    def at(self, step: int) -> Spent:
        """Do what is due at the end of `step`; return what earlier work kept the device busy with beyond the host."""
        late = self._settle()
        try:
            if self._wish is not None:
                self._take_point(self._wish, step)
            else:
                if self._governor.searches_at(step):
                    self._search(step)
                if self._governor.searches_at(step + 1):
                    self._keep(step)
        except ImmovableError as error:
            self._give_up(f"not measured: {error}")
        except Exception as error:  # it runs the user's model, loss and forward: anything may come
            if from_signal_handler(error):
                raise
            self._give_up(f"off after an error: {error!r}")
            _log.warning("topowatch: critical steps and loss slices are %s", self.problem)
        return late

    def findings(self, step: int, parts: Sequence[Part]) -> Findings:
        """Return what a sample at the end of `step` takes along, and see what is asked for.

        Args:
            step: The sample's.
            parts: Of the weights, where the update is known as well, so that a gradient says something.
        """
        for wish in self._inbox.new():
            self._begin(wish, step)
        found, self._found = self._found, Findings()
        points = None if self._wish is None else self._underway.slice.points if self._underway is not None else 0
        gradient = self._weights.gradient(parts) if parts and self._governor.gradients_at(step) else None
        return found._replace(points=points, gradient=gradient)

    def drop(self, why: str) -> None:
        """Give up what is under way."""
        self._before = None
        self._batch.forget()
        if self._wish is not None:
            self._refuse(self._wish, why)

    def release(self) -> None:
        """Keep nothing of the job; nothing more can be looked at."""
        self._batch.release()
        self._before = self._underway = self._model = self._wish = None
        self._optimizers = []

    # The critical step

    def _keep(self, step: int) -> None:
        """Keep the weights as they are before the next step's update; the first batch is only to see if it will do."""
        probe = self._probe()
        if probe is not None and probe.facts is None:
            return  # only its first pass tells whether it makes a loss
        on_probes = self._on_probes()
        if on_probes is None:
            self._look_at_batch()
        if (on_probes or (self._batch.armed and self._batch.proven)) and self._model is not None:
            span = Span(self._device)
            self._before = _Before(step, copies(trainable(self._model)), span.stop())

    def _search(self, step: int) -> None:
        before, self._before = self._before, None
        source = self._source_seen()
        if before is not None and before.step == step - 1 and source is not None and self._model is not None:
            self._search_along(before, source, self._model)
        self._batch.forget()

    def _search_along(self, before: _Before, source: Probe | LastBatch, model: torch.nn.Module) -> None:
        span = Span(self._device)
        along = critical.search(trainable(model), before.weights, source.losses)
        span.stop().passed(wait=True)
        before.span.passed(wait=True)
        if along is not None:
            rate: Any = steps.learning_rate(self._optimizers) or 0.0
            self._found = self._found._replace(critical=CriticalStep(*along, float(rate)))
        self._governor.on_search(span.spent().plus(before.span.spent()))

    # Slices

    def _begin(self, wish: SliceWish, step: int) -> None:
        try:
            if self._model is not None:
                trainable(self._model)
        except ImmovableError as error:
            self._give_up(f"not measured: {error}")
        if self.problem is None and self._wish is None:
            self._wish, self._before = wish, None
            if self._on_probes() is None:
                self._look_at_batch()
        else:
            self._found = self._found._replace(
                loss_slice=LossSlice(wish.id, max(step, 0), problem=self.problem or "another slice is being taken")
            )

    def _take_point(self, wish: SliceWish, step: int) -> None:
        source = self._source_seen()
        if source is None or self._model is None:
            self.drop("the probe set is not passed any more")
            return
        span = Span(self._device)
        if self._underway is None:
            self._underway = _Underway(wish, step, Slice(self._model, wish.side, seed=step))
        under = self._underway
        under.slice.take_point(source.losses)
        self._point_span = span.stop()
        if under.slice.complete:
            found = LossSlice(wish.id, under.step, wish.side, EXTENT)
            self._found = self._found._replace(loss_slice=found, losses=under.slice.result())
            self._wish = self._underway = None
            self._batch.forget()

    def _refuse(self, wish: SliceWish, why: str) -> None:
        step = self._underway.step if self._underway is not None else 0
        self._found = self._found._replace(loss_slice=LossSlice(wish.id, step, problem=why), losses=None)
        self._wish = self._underway = None

    # What both need

    def _source_seen(self) -> Probe | LastBatch | None:
        """Return what makes a loss, None where nothing does; give up if the model was looked at and made none."""
        looked = self._batch.armed
        self._batch.disarm()
        source = self._on_probes() or (self._batch if self._batch.has_loss else None)
        if looked and source is None:
            self._give_up(self._batch.problem or NO_LOSS)
        return source

    def _on_probes(self) -> Probe | None:
        probe = self._probe()
        return probe if probe is not None and probe.has_loss else None

    def _look_at_batch(self) -> None:
        """See the calls of the next step, where that can be done."""
        if self._alone:
            self._batch.arm()
        if not self._batch.armed:
            self._give_up(self._batch.problem or _SEVERAL)

    def _give_up(self, why: str) -> None:
        self.problem = names.of_value(why)  # an error of the job's may say anything, at any length
        self.drop(self.problem)

    def _settle(self) -> Spent:
        """Account for the last point, once the device has passed it."""
        span = self._point_span
        if span is None or not span.passed(wait=False):
            return Spent()
        self._point_span = None
        self._governor.on_point(span.spent())
        return span.beyond_host()

    @property
    def _device(self) -> torch.device | None:
        return next((held.device for held in self._model.parameters()), None) if self._model is not None else None
