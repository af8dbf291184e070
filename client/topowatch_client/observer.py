"""What is done at an optimiser step: decide whether to look, look, and put what was seen into the spool.

Knows torch and the spool; the handle in watch.py is what keeps its errors away from training.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple

import torch

from topowatch_client import messages, meter, names, steps
from topowatch_client.activations import Activations
from topowatch_client.excursions import Excursions
from topowatch_client.governor import Spent, power_of_two_above
from topowatch_client.guard import from_signal_handler
from topowatch_client.identity import next_incarnation
from topowatch_client.meter import Span
from topowatch_client.news import News
from topowatch_client.taken import take

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from topowatch_client.config import Config
    from topowatch_client.governor import Governor
    from topowatch_client.messages import RunFacts
    from topowatch_client.probe_result import Found
    from topowatch_client.probes import Probe
    from topowatch_client.spool import SpoolWriter
    from topowatch_client.taken import Taken
    from topowatch_client.weights import Weights

_FRAMES_EVERY = 4  # probe passes
_FINISH_SECONDS = 1.0  # a last look that usually takes longer is left out
_log = logging.getLogger("topowatch")


class _Before(NamedTuple):
    """Sketches of the parts at the end of a step; `span` is what they took, unless a sample did."""

    step: int
    rows: torch.Tensor
    span: Span | None


class Observer:
    """Follows one model. Steps count optimiser steps from 0: step t has ended when its hook runs."""

    def __init__(
        self,
        weights: Weights,
        optimizers: Sequence[torch.optim.Optimizer],
        config: Config,
        *,
        facts: RunFacts,
        spool: SpoolWriter,
        governor: Governor,
        probe: Probe | None,
    ) -> None:
        self.governor = governor
        self.samples = 0
        self.incarnation = 0
        self.probe_error: str | None = None
        self._weights = weights
        self._optimizers = optimizers
        self._config = config
        self._facts = facts
        self._spool = spool
        self._probe = probe
        self._leads = facts.rank == weights.shards.senders[0]
        self._activations = Activations(weights.shards.model) if probe is None and self._leads else None
        self._armed = False  # to see the activations of the step that is next
        self._device = next((parameter.device for parameter in weights.shards.model.parameters()), None)
        self._together: int | None = None  # steps between probe passes that every rank takes part in
        prompt = config.pulse_interval is not None
        self._news = News(weights.shards.model, optimizers, governor, prompt=prompt)
        alone = facts.world_size == 1
        self.excursions = Excursions(weights, optimizers, governor, spool.directory, lambda: self._probe, alone=alone)
        self._uncounted: str | None = None  # the warning that nobody said where we start
        self._told: tuple[float | None, str | None] = (None, None)  # activation coverage and warning, once released
        self._unprobed: str | None = None  # the warning that a sharded model is not probed
        self._before: _Before | None = None
        self._taken: Taken | None = None
        self._ended_at = meter.now()
        self._late = Spent()  # what the device was busy with for us after the host had gone on
        self._passes = 0
        self._marked = steps.marked(weights.shards.model, optimizers)
        self._mark: tuple[int, ...] = ()  # of the weights, at the end of the step
        self._probe_span: Span | None = None
        self._forwarder_cpu: float | None = None
        seen = steps.steps_done(optimizers)
        self._restart(config.start_step if config.start_step is not None else seen or 0, config.incarnation)
        if seen is None and steps.have_stepped(optimizers):
            self._warn_uncounted()

    @property
    def step(self) -> int:
        """The step that ended last; one below the first step before any has."""
        return self._step

    @property
    def coverage(self) -> float:
        """Share of the parameters that the sketches of all ranks cover."""
        return self._weights.shards.coverage

    @property
    def activation_coverage(self) -> float | None:
        """Share of the watched modules whose activations were seen; None on ranks that do not look at them."""
        source = self._activations or self._probe
        return source.coverage if source is not None else self._told[0]

    @property
    def collective(self) -> bool:
        """Whether other ranks wait for this one at probe passes, whatever becomes of watching here."""
        return self._together is not None

    @property
    def warning(self) -> str | None:
        """What the user was warned of since the start."""
        if self._told[1] is not None:
            return self._told[1]
        probe = self._probe.warning if self._probe is not None else None
        hooks = self._activations.problem if self._activations is not None else None
        unseen = f"activations are not seen: {hooks}" if hooks else None
        texts = (self._uncounted, self._unprobed, probe, unseen, self._news.scalars.warning)
        return "; ".join(text for text in texts if text) or None

    @property
    def terms(self) -> str | None:
        """What all ranks must have alike to probe a sharded model together; None where this one is not to."""
        every = self._config.probe_interval
        if every is None or self._probe is None:
            return None
        return f"every {power_of_two_above(every)} from {self._start_step} with {self._probe.terms}"

    def probe_together(self, *, agreed: bool) -> None:
        """Take probe passes at fixed steps, on every rank of a sharded model, or none.

        Args:
            agreed: Whether all ranks are ready to, on the same terms; all of them say the same.
        """
        every = self._config.probe_interval
        if every is not None and agreed:
            self._together = power_of_two_above(every)
        elif every is None:
            self.probe_never(
                "on a sharded model all ranks take part in them: set probe_interval to have one every so many steps"
            )
        else:
            self.probe_never(
                "on a sharded model all ranks take part in them, and not every rank was ready for them, "
                "with the same probe set, at the same step"
            )

    def probe_never(self, why: str) -> None:
        """Do without probe passes, and say why."""
        self._probe = None
        self._unprobed = f"no probe passes: {why}"
        self.governor.without_probes()
        _log.warning("topowatch: %s", self._unprobed)

    def keep_pace(self) -> None:
        """Take in the end of a step where watching has ended: other ranks may wait for this one's probe pass."""
        self._step += 1
        if self._probes_together_at(self._step) and self._probe is not None:
            self._probe.run(frames=self._frames_due())

    def log(self, scalars: Mapping[str, object]) -> None:
        """Keep scalars of the step that just ended (of the first one, if none has); of several ranks, the lowest's."""
        if self._leads:
            self._news.scalars.add(self._step_or_start, scalars)

    def on_load(self) -> None:
        """The optimiser's state was replaced: where it stands at another step, a new incarnation begins."""
        step = steps.steps_done(self._optimizers)
        if step is None:
            self._warn_uncounted()
        elif step != self._step + 1:
            self.flush()
            self._restart(step)

    def on_step(self) -> None:
        """Take in the end of an optimiser step."""
        started = meter.now()
        self._step += 1
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():  # type: ignore[no-untyped-call]
            return  # whatever we did would become part of the graph
        if self._leads:
            self._news.feel(self._step)
        if busy := self._is_busy_at(self._step):
            self._work(self._step)
        self._arm(self._step + 1)
        self.mark()
        ended = meter.now()
        own = ended.minus(started).plus(self._late)
        self._late = Spent()
        self.governor.on_step(ended.minus(self._ended_at), own, plain=not busy)
        self._ended_at = ended

    def _is_busy_at(self, step: int) -> bool:
        looks = self.governor.samples_at(step) or self.governor.prepares_at(step) or self._probes_together_at(step)
        return looks or self._taken is not None or not self._begun or self._news.due() or self.excursions.due(step)

    @torch.no_grad()
    def _work(self, step: int) -> None:
        """Put away what was taken before, and take what is due."""
        together = self._probes_together_at(step)
        result = self._probe_pass() if together else None  # before all else: other ranks wait in it
        self._emit()
        if self.excursions.due(step):
            self._late = self._late.plus(self.excursions.at(step))
        first = not self._begun and self._taken is None
        if first or together or self.governor.samples_at(step):
            if not self.collective and (first or self.governor.probes_at(step)):
                result = self._probe_pass()
            self._sample(step, result)
        elif self.governor.prepares_at(step):
            span = Span(self._device)
            self._before = _Before(step, self._weights.look().rows, span.stop())
        elif self._taken is None and self._news.due():  # one that is still on its way goes first
            self._taken = take(step, self._news.take())
            self._emit()

    def mark(self) -> None:
        """Note that the weights are those of the step that ended last."""
        self._mark = steps.mark(self._marked)

    def let_go(self) -> None:
        """Take the hooks off the model."""
        if self._activations is not None:
            self._activations.disarm()

    def release(self) -> None:
        """Keep nothing of the job but what there is to tell about it; nothing more can be looked at."""
        self.let_go()
        self._told = self.activation_coverage, self.warning
        self._weights.release()
        self._before = self._taken = self._probe = self._activations = None
        self._news.release()
        self.excursions.release()
        self._optimizers, self._marked = [], []

    def charge_forwarder(self, cpu_seconds: float | None) -> None:
        """Tell the governor what the forwarder used; what it took to start is not held against how often we look."""
        known, self._forwarder_cpu = self._forwarder_cpu, cpu_seconds
        if cpu_seconds is not None and known is not None and cpu_seconds > known:
            self.governor.on_forwarder(cpu_seconds - known)

    @torch.no_grad()
    def flush(self) -> None:
        """Put everything that waits into the spool; what the device does not deliver in a second is left out."""
        if not self._arrives():
            self._taken = None
        self._emit()
        if len(self._news):
            self._taken = take(self._step_or_start, self._news.take())
            if self._arrives():
                self._emit()

    def _arrives(self) -> bool:
        """Wait a little for the sample that is on its way: a device may hang behind a rank that is gone."""
        deadline = time.monotonic() + _FINISH_SECONDS
        while self._taken is not None and not self._taken.arrived(wait=False):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True

    @torch.no_grad()
    def finish(self, results: Mapping[str, float]) -> None:
        """Take a last sample of the final weights, unless others were loaded, then say that the run is over."""
        responsive = self._arrives()
        self._emit()
        cheap = responsive and (self.governor.typical_sample_cost or 0.0) < _FINISH_SECONDS
        weights = steps.marked(self._weights.shards.model, self._optimizers)
        final = steps.mark(weights) == self._mark  # and not those of the best checkpoint
        if self._step >= self._start_step and self._sampled_step != self._step and final and cheap:
            cost = self.governor.typical_probe_cost
            quick = not self.collective and cost is not None and cost < _FINISH_SECONDS
            self._sample(self._step, self._probe_pass() if quick else None)
        self.flush()
        self._begin()
        self._spool.append(messages.encode_end(self._step_or_start, results), vital=True)

    @property
    def _step_or_start(self) -> int:
        return max(self._step, self._start_step)

    def _restart(self, step: int, incarnation: int | None = None) -> None:
        self._step = step - 1
        self._start_step = step
        self._begun = False
        self._wanted_incarnation = incarnation
        self._before = None
        self._sampled_step = -1
        self._news.restart()
        self.excursions.drop("the job began again at another step")

    def _begin(self) -> None:
        """Write the descriptor of this incarnation before its first item."""
        if self._begun:
            return
        self.incarnation = next_incarnation(self._wanted_incarnation, self._config.spool_dir)
        descriptor = messages.encode_descriptor(
            self._facts,
            incarnation=self.incarnation,
            start_step=self._start_step,
            first_seq=self._spool.next_seq,
            probe=self._probe.facts if self._probe else None,
        )
        self._spool.begin(self.incarnation, descriptor)
        self._begun = True  # only now: what goes without a descriptor is lost

    def _sample(self, step: int, probe: Found | None) -> None:
        span = Span(self._device)
        before = self._before if self._before is not None and self._before.step == step - 1 else None
        self._news.note_rate(step)
        look = self._weights.look()
        self._marked = steps.marked(self._weights.shards.model, self._optimizers)
        if self._leads:
            self._news.looked(step, look.parts)
        earlier = before.rows if before is not None and before.rows.shape == look.rows.shape else None
        seen = self._activations.take() if self._activations is not None and self._armed else None
        # To read the gradients takes as long as a look: where those are dear, they come with the updates.
        gradients = earlier is not None or self.governor.update_interval == self.governor.interval
        # A rank may hold none of a sharded model; the others' sums wait for its zeros.
        whole = look if look.parts or self._weights.shards.sharded else None
        found = self.excursions.findings(step, look.parts if earlier is not None else ()) if self._leads else None
        self._emit(wait=True)
        taken = take(
            step, self._news.take(), whole, before=earlier, gradients=gradients, seen=seen, probe=probe, findings=found
        )
        self._taken = taken
        spans = {"look": before.span if before is not None else None, "probe": self._probe_span, "sample": span.stop()}
        if self.governor.typical_sample_cost is None and self._device is not None and self._device.type == "cuda":
            again = Span(self._device)
            self._weights.look()
            spans = {"warm": again.stop(), **spans}
        taken.spans = {kind: each for kind, each in spans.items() if each is not None}
        self._probe_span = None
        self._before, self._sampled_step = _Before(step, look.rows, None), step
        if not self._begun:
            self._emit()  # a run is to be seen from its first step on; other samples are put away in the next hook

    def _arm(self, step: int) -> None:
        """See the activations of a coming step, where there are no probes to see them with: as rarely as those."""
        if self._activations is None:
            return
        if self._armed:
            self._activations.disarm()
            self.governor.on_probe(Spent(self._activations.seconds, self._activations.seconds))
            self._late = self._late.plus(Spent(self._activations.seconds, self._activations.seconds))
        due = step % self.governor.probe_interval == 0 and self.governor.samples_at(step)
        self._armed = due and self._activations.arm(training=True)

    def _frames_due(self) -> bool:
        """Whether the next pass brings frames: by the step alone where all ranks have to do the same."""
        passes = self._passes if self._together is None else self._step // self._together
        return passes % _FRAMES_EVERY == 0

    def _probes_together_at(self, step: int) -> bool:
        return self._together is not None and step % self._together == 0

    def _emit(self, *, wait: bool = False) -> None:
        """Put the sample that was taken last into the spool, if it has arrived."""
        taken = self._taken
        if taken is None or not taken.arrived(wait=wait):
            return
        self._taken = None
        span = Span()
        parts = taken.told(shard=self._weights.shards.sharded)
        parts.overhead_ratio, parts.interval = self.governor.take_ratio(), self.governor.interval
        parts.spooled_bytes, parts.coverage = self._spool.size_bytes, self.coverage
        self._begin()
        if self._spool.append(messages.encode_sample(parts)):
            self.samples += 1
        self._account(taken.spans, span.stop().spent())

    def _account(self, spans: Mapping[str, Span], put_away: Spent) -> None:
        """Tell the governor what a sample took, now that the device has passed it."""
        for kind, span in spans.items():
            self._late = self._late.plus(span.beyond_host())
            getattr(self.governor, f"on_{kind}")(span.spent().plus(put_away if kind == "sample" else Spent()))

    def _probe_pass(self) -> Found | None:
        """Look at the probe set. One that fails is not looked at again, unless other ranks wait for this one."""
        if self._probe is not None and not self.collective and self._weights.shards.is_sharded():
            self.probe_never("the model was sharded after it was attached: attach it afterwards")
        if self._probe is None:
            return None
        span = Span(self._device)
        try:
            result = self._probe.run(frames=self._frames_due())
        except Exception as error:  # it runs the user's model, loss and forward: anything may come
            if from_signal_handler(error):
                raise
            if not self.collective:
                self._probe = None
            if self.probe_error is None:
                told = f"the probe pass failed{'' if self.collective else ' and is off'}: {error!r}"
                self.probe_error = names.of_value(told)  # an error of the job's may say anything, at any length
                _log.warning("topowatch: %s", self.probe_error)
            return None
        self._passes += 1
        self._probe_span = span.stop()
        return result if self._leads else None

    def _warn_uncounted(self) -> None:
        """Say once that nobody told us at which step this job goes on."""
        if self._config.start_step is None and self._uncounted is None:
            kind = type(self._optimizers[0]).__name__
            self._uncounted = (
                f"{kind} keeps no step count, so a job resumed from a checkpoint is taken to "
                f"be at step {self._step_or_start} and supersedes its own earlier samples from there: "
                'pass config={"start_step": n} to attach'
            )
            _log.warning("topowatch: %s", self._uncounted)
