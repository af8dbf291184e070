"""What is done at an optimiser step: decide whether to look, look, and put what was seen into the spool.

Knows torch and the spool; the handle in watch.py is what keeps its errors away from training.
"""

from __future__ import annotations

import logging
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from topowatch_client import messages, meter
from topowatch_client.governor import Spent
from topowatch_client.identity import next_incarnation
from topowatch_client.messages import SampleParts
from topowatch_client.meter import Span
from topowatch_client.scalars import ScalarBuffer, Series, Waiting
from topowatch_client.sketch import FoldSketch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from topowatch_client.config import Config
    from topowatch_client.governor import Governor
    from topowatch_client.messages import Array, ProbeResult, RunFacts
    from topowatch_client.probes import Probe
    from topowatch_client.spool import SpoolWriter

_BUFFERED_VALUES = 4096  # scalars that may wait for the next sample; beyond that they travel alone
_FRAMES_EVERY = 4  # probe passes
_FINISH_SECONDS = 1.0  # a last look that usually takes longer is left out
_log = logging.getLogger("topowatch")


class _Before(NamedTuple):
    """Sketches of the parameters at the end of a step; `span` is what they took, unless a sample did."""

    step: int
    sketches: torch.Tensor
    span: Span | None


@dataclass
class _Taken:
    """One sample on its way from the device: its numbers in one host tensor, whole once `event` has passed."""

    step: int
    numbers: torch.Tensor
    event: torch.cuda.Event | None
    layout: list[tuple[str, int]]  # what the numbers are, in order
    matrices: list[bool]  # for each parameter: whether it has two dimensions or more
    scalars: Waiting
    spans: list[Span]  # what went into it: the look on the step before, if any, and its own
    probe: ProbeResult | None = None


class Observer:
    """Follows one model. Steps count optimiser steps from 0: step t has ended when its hook runs."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | None,
        config: Config,
        *,
        facts: RunFacts,
        spool: SpoolWriter,
        governor: Governor,
        probe: Probe | None,
    ) -> None:
        self.governor = governor
        self.samples = 0
        self.coverage = 1.0
        self.incarnation = 0
        self.probe_error: str | None = None
        self._model = model
        self._optimizer = optimizer
        self._config = config
        self._facts = facts
        self._spool = spool
        self._probe = probe
        self._device = next((parameter.device for parameter in model.parameters()), None)
        self._sketch = FoldSketch(config.sketch_seed, config.sketch_dim)
        self._scalars = ScalarBuffer()
        self._uncounted: str | None = None  # the warning that nobody said where we start
        self._before: _Before | None = None
        self._taken: _Taken | None = None
        self._ended_at = meter.now()
        self._late = Spent()  # what the device was busy with for us after the host had gone on
        self._passes = 0
        self._forwarder_cpu: float | None = None
        seen = self._optimizer_step()
        self._restart(config.start_step if config.start_step is not None else seen or 0, config.incarnation)
        if seen is None and optimizer is not None and any(optimizer.state.values()):
            self._warn_uncounted()

    @property
    def step(self) -> int:
        """The step that ended last; one below the first step before any has."""
        return self._step

    @property
    def warning(self) -> str | None:
        """What the user was warned of since the start."""
        return "; ".join(text for text in (self._uncounted, self._scalars.warning) if text) or None

    def log(self, scalars: Mapping[str, object]) -> None:
        """Keep scalars of the step that just ended (of the first one, if none has)."""
        self._scalars.add(self._step_or_start, scalars)

    def on_load(self) -> None:
        """The optimiser's state was replaced: where it stands at another step, a new incarnation begins."""
        step = self._optimizer_step()
        if step is None:
            self._warn_uncounted()
        elif step != self._step + 1:
            self.flush()
            self._restart(step)

    def on_step(self) -> None:
        """Take in the end of an optimiser step."""
        started = meter.now()
        self._step += 1
        step = self._step
        plain = self._taken is None
        self._emit()
        first = not self._begun
        if first or self.governor.samples_at(step):
            self._sample(step, probe=first or self.governor.probes_at(step))
            plain = False
        elif self.governor.prepares_at(step):
            span = Span(self._device)
            sketches = self._look()[1]
            self._before = _Before(step, sketches, span.stop())
            plain = False
        elif len(self._scalars) > _BUFFERED_VALUES:
            self._take(step)
            self._emit()
            plain = False
        ended = meter.now()
        own = ended.minus(started).plus(self._late)
        self._late = Spent()
        self.governor.on_step(ended.minus(self._ended_at), own, plain=plain)
        self._ended_at = ended

    def charge_forwarder(self, cpu_seconds: float | None) -> None:
        """Tell the governor what the forwarder used; what it took to start is not held against how often we look."""
        known, self._forwarder_cpu = self._forwarder_cpu, cpu_seconds
        if cpu_seconds is not None and known is not None and cpu_seconds > known:
            self.governor.on_forwarder(cpu_seconds - known)

    def flush(self) -> None:
        """Put everything that waits into the spool."""
        self._emit(wait=True)
        if len(self._scalars):
            self._take(self._step_or_start)
            self._emit(wait=True)

    def finish(self, results: Mapping[str, float]) -> None:
        """Take a last sample of the final weights, then say that the run is over."""
        self._emit(wait=True)
        cheap = (self.governor.typical_sample_cost or 0.0) < _FINISH_SECONDS
        if self._step >= self._start_step and self._sampled_step != self._step and cheap:
            probe_cost = self.governor.typical_probe_cost
            self._sample(self._step, probe=probe_cost is not None and probe_cost < _FINISH_SECONDS)
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

    def _begin(self) -> None:
        """Write the descriptor of this incarnation before its first item."""
        if self._begun:
            return
        self.incarnation = next_incarnation(self._wanted_incarnation)
        descriptor = messages.encode_descriptor(
            self._facts,
            incarnation=self.incarnation,
            start_step=self._start_step,
            first_seq=self._spool.next_seq,
            probe=self._probe.facts if self._probe else None,
        )
        self._spool.begin(self.incarnation, descriptor)
        self._begun = True  # only now: what goes without a descriptor is lost

    def _sample(self, step: int, *, probe: bool) -> None:
        span = Span(self._device)
        before = self._before if self._before is not None and self._before.step == step - 1 else None
        rate = _learning_rate(self._optimizer)
        if rate is not None:
            self._scalars.put(step, "learning_rate", rate)
        parameters, now = self._look()
        earlier = before.sketches if before is not None and before.sketches.shape == now.shape else None
        taken = self._take(step, parameters, now, earlier)
        if before is not None and before.span is not None:
            taken.spans.append(before.span)
        taken.spans.append(span.stop())
        self._before, self._sampled_step = _Before(step, now, None), step
        if probe:
            self._probe_pass()
        self._emit(wait=probe)

    def _look(self) -> tuple[list[tuple[str, torch.Tensor]], torch.Tensor]:
        """Sketch every parameter that lies whole on this rank: (parameters, parameters × dimension)."""
        whole: list[tuple[str, torch.Tensor]] = []
        covered = total = 0
        for name, parameter in self._model.named_parameters():
            total += parameter.numel()
            # A DTensor's shards are summed up by a later part; touching it here would start a collective.
            if (
                parameter.is_floating_point()
                and parameter.device.type != "meta"
                and not hasattr(parameter, "placements")
            ):
                whole.append((name, parameter))
                covered += parameter.numel()
        self.coverage = covered / total if total else 1.0
        devices = {parameter.device for _, parameter in whole}
        if len(devices) <= 1:
            return whole, self._sketch.matrix(whole)
        first = whole[0][1].device
        return whole, torch.stack([self._sketch.slice(name, parameter).to(first) for name, parameter in whole])

    def _take(
        self,
        step: int,
        parameters: Sequence[tuple[str, torch.Tensor]] = (),
        now: torch.Tensor | None = None,
        before: torch.Tensor | None = None,
    ) -> _Taken:
        """Gather what a sample needs in one tensor and start its way to the host."""
        self._emit(wait=True)
        waiting = self._scalars.take()
        pieces: list[tuple[str, torch.Tensor]] = []
        if now is not None and len(now):
            pieces += [("weights", now.sum(0)), ("norms", torch.linalg.vector_norm(now, dim=1))]
            if before is not None:
                change = now - before
                pieces += [("update", change.sum(0)), ("changes", torch.linalg.vector_norm(change, dim=1))]
            # It takes as long as a look: where those are dear, it comes with the updates.
            wanted = before is not None or self.governor.update_interval == self.governor.interval
            gradient = _gradient_norm(parameters) if wanted else None
            if gradient is not None:
                pieces.append(("gradient", gradient.reshape(1).to(now.device)))
        if waiting.on_device:
            device = now.device if now is not None else waiting.on_device[0].device
            pieces.append(("scalars", torch.stack([value.to(device) for value in waiting.on_device])))
        numbers = torch.cat([piece for _, piece in pieces]) if pieces else torch.zeros(0)
        host, event = _to_host(numbers)
        layout = [(name, len(piece)) for name, piece in pieces]
        matrices = [parameter.dim() >= 2 for _, parameter in parameters]
        self._taken = _Taken(step, host, event, layout, matrices, waiting, [])
        return self._taken

    def _emit(self, *, wait: bool = False) -> None:
        """Put the sample that was taken last into the spool, if it has arrived."""
        taken = self._taken
        if taken is None:
            return
        if taken.event is not None and not _has_passed(taken.event):
            if not wait:
                return
            taken.event.synchronize()
        self._taken = None
        span = Span()
        numbers = dict(zip([name for name, _ in taken.layout], _cut(taken), strict=True))
        weights, update = numbers.get("weights"), numbers.get("update")
        scalars = _summary(numbers, taken.matrices)
        if taken.probe is not None and taken.probe.mean_loss is not None:
            scalars["probe_loss"] = taken.probe.mean_loss
        series = taken.scalars.series(numbers.get("scalars", np.zeros(0)).tolist())
        series += [Series(name, [taken.step], [value]) for name, value in scalars.items()]
        self._begin()
        parts = SampleParts(
            step=taken.step,
            weights=_finite(weights),
            update=_finite(update) if _finite(weights) is not None else None,
            series=series,
            probe=taken.probe,
            overhead_ratio=self.governor.take_ratio(),
            interval=self.governor.interval,
            spooled_bytes=self._spool.size_bytes,
            coverage=self.coverage,
        )
        if self._spool.append(messages.encode_sample(parts)):
            self.samples += 1
        self._account(taken.spans, span.stop().spent())

    def _account(self, spans: Sequence[Span], put_away: Spent) -> None:
        """Tell the governor what a sample took, now that the device has passed it."""
        for span in spans:
            self._late = self._late.plus(span.beyond_host())
        for span in spans[:-1]:
            self.governor.on_look(span.spent())
        if spans:
            self.governor.on_sample(spans[-1].spent().plus(put_away))

    def _probe_pass(self) -> None:
        """Look at the probe set; one that fails is not looked at again, and training does not notice."""
        if self._probe is None or self._taken is None:
            return
        span = Span()
        try:
            result = self._probe.run(frames=self._passes % _FRAMES_EVERY == 0)
        except Exception as error:  # noqa: BLE001 -- it runs the user's model, loss and forward: anything may come
            self.probe_error = f"the probe pass failed and is off: {error!r}"
            self._probe = None
            _log.warning("topowatch: %s", self.probe_error)
            return
        if np.isfinite(result.sketch).all():
            self._taken.probe = result
        self._passes += 1
        self.governor.on_probe(span.stop().spent())

    def _warn_uncounted(self) -> None:
        """Say once that nobody told us at which step this job goes on."""
        if self._config.start_step is None and self._uncounted is None:
            self._uncounted = (
                f"{type(self._optimizer).__name__} keeps no step count, so a job resumed from a checkpoint is taken to "
                f"be at step {self._step_or_start} and supersedes its own earlier samples from there: "
                'pass config={"start_step": n} to attach'
            )
            _log.warning("topowatch: %s", self._uncounted)

    def _optimizer_step(self) -> int | None:
        """Return how many steps the optimiser's state has seen, None where it does not count them."""
        if self._optimizer is None:
            return None
        steps = [
            state["step"] for state in self._optimizer.state.values() if isinstance(state, dict) and "step" in state
        ]
        return max((int(step) for step in steps[:1]), default=None)


def _summary(numbers: Mapping[str, Array], matrices: Sequence[bool]) -> dict[str, float]:
    """Reduce per-parameter norms to a few scalars; ratios are of matrices, as biases start from zero."""
    scalars: dict[str, float] = {}
    if "norms" in numbers:
        scalars["weight_norm"] = float(np.sqrt(np.square(numbers["norms"], dtype=np.float64).sum()))
        if not np.isfinite(numbers["weights"]).all():
            scalars["nonfinite_weights"] = 1.0
    if "changes" in numbers:
        scalars["update_norm"] = float(np.sqrt(np.square(numbers["changes"], dtype=np.float64).sum()))
        chosen = np.asarray(matrices) & (numbers["norms"] > 0)
        if chosen.any():
            ratios = numbers["changes"][chosen] / numbers["norms"][chosen]
            scalars["update_ratio_max"] = float(ratios.max())
            scalars["update_ratio_median"] = float(statistics.median(ratios.tolist()))
    if "gradient" in numbers:
        scalars["gradient_norm"] = float(numbers["gradient"][0])
    return scalars


def _has_passed(event: torch.cuda.Event) -> bool:
    return bool(event.query())  # type: ignore[no-untyped-call] # torch leaves it untyped


def _cut(taken: _Taken) -> list[Array]:
    lengths = [length for _, length in taken.layout]
    return np.split(taken.numbers.numpy(), np.cumsum(lengths)[:-1]) if lengths else []


def _finite(sketch: Array | None) -> Array | None:
    return sketch if sketch is not None and np.isfinite(sketch).all() else None


def _gradient_norm(parameters: Sequence[tuple[str, torch.Tensor]]) -> torch.Tensor | None:
    gradients = [parameter.grad for _, parameter in parameters]
    dense = [gradient for gradient in gradients if gradient is not None and gradient.layout == torch.strided]
    if not dense:
        return None
    norms = [_norm(gradient).to(dense[0].device) for gradient in dense]
    total: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def _norm(tensor: torch.Tensor) -> torch.Tensor:
    """Return the norm as float32; summed in no less than that, and no narrower than the tensor, as torch asks."""
    norm: torch.Tensor = torch.linalg.vector_norm(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))
    return norm.float()


def _learning_rate(optimizer: torch.optim.Optimizer | None) -> object:
    groups = optimizer.param_groups if optimizer is not None else []
    return groups[0].get("lr") if groups else None


def _to_host(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """Start a copy to the host; on CUDA it does not block and is whole once the event has passed."""
    if numbers.device.type != "cuda":
        return numbers.cpu(), None
    pinned = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    with torch.cuda.device(numbers.device):
        pinned.copy_(numbers, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch leaves it untyped
        event.record()
    return pinned, event
