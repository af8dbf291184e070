"""A sample between device and spool: all that was seen of a step, in one tensor that comes to the host unawaited."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from topowatch_client import activations, layers, pulse, weights
from topowatch_client.excursions import Findings
from topowatch_client.messages import SampleParts
from topowatch_client.scalars import Series

if TYPE_CHECKING:
    from topowatch_client.messages import Array, LayerStatistics, LossSlice, ProbeResult
    from topowatch_client.meter import Span
    from topowatch_client.news import Taken as News
    from topowatch_client.probe_result import Found, Reading
    from topowatch_client.scalars import Waiting
    from topowatch_client.weights import Look

_PROBE = "probe/"
Seen = tuple[torch.Tensor, list[str]]  # statistics of activations (modules × activations.FIELDS) and the modules' names


@dataclass
class Taken:
    """One sample on its way from the device. Its numbers may be read once it has `arrived`."""

    step: int
    scalars: Waiting
    parts: list[str]  # their parameters' names
    matrices: list[bool]  # for each part, whether its parameter has two dimensions or more
    layout: list[tuple[str, int]]  # what the numbers are, in order
    host: torch.Tensor
    event: torch.cuda.Event | None
    modules: list[str] | None  # whose activations the numbers hold; None: nobody looked
    reading: Reading | None  # of a probe pass
    beats: list[int]  # steps of a pulse
    findings: Findings
    spans: dict[str, Span] = field(default_factory=dict)  # what it took: "look" on the step before, "probe", "sample"

    def arrived(self, *, wait: bool) -> bool:
        """Say whether the numbers are whole and all that led to them has passed."""
        if wait and self.event is not None:
            self.event.synchronize()
        passed = self.event is None or bool(self.event.query())  # type: ignore[no-untyped-call] # torch leaves it so
        return passed and all(span.passed(wait=wait) for span in self.spans.values())

    def numbers(self) -> dict[str, Array]:
        """Return the numbers by what they are."""
        numbers, values, position = {}, self.host.numpy(), 0
        for name, length in self.layout:
            numbers[name] = values[position : position + length]
            position += length
        return numbers

    def probed(self, numbers: dict[str, Array]) -> ProbeResult | None:
        """Return what the probe pass found, None without one and where the predictions are not finite."""
        if self.reading is None or not np.isfinite(numbers[_PROBE + "sketch"]).all():
            return None
        return self.reading.result(
            {name.removeprefix(_PROBE): values for name, values in numbers.items() if name.startswith(_PROBE)}
        )

    def told(self, *, shard: bool) -> SampleParts:
        """Return all that there is to tell, once it has arrived.

        Args:
            shard: The parts are one rank's share; see `weights.summary`.
        """
        numbers = self.numbers()
        whole = weights.finite(numbers.get("weights"))
        probe = self.probed(numbers)
        own = weights.summary(numbers, self.matrices, shard=shard)
        if probe is not None and probe.mean_loss is not None:
            own["probe_loss"] = probe.mean_loss
        if self.findings.points is not None:
            own["loss_slice_points"] = float(self.findings.points)
        series = self.scalars.series(numbers["scalars"].tolist() if "scalars" in numbers else [])
        series += pulse.series(self.beats, numbers["pulse"]) if self.beats else []
        return SampleParts(
            step=self.step,
            weights=whole,
            update=weights.finite(numbers.get("update")) if whole is not None else None,
            gradient=weights.finite(numbers.get("gradient")),
            critical=self.findings.critical,
            loss_slice=self._slice(numbers),
            series=[*series, *(Series(name, [self.step], [value]) for name, value in own.items())],
            probe=probe,
            layers=self._layers(numbers, probe),
        )

    def _slice(self, numbers: dict[str, Array]) -> LossSlice | None:
        found = self.findings.loss_slice
        return None if found is None else found._replace(values=numbers.get("slice"))

    def _layers(self, numbers: dict[str, Array], probe: ProbeResult | None) -> dict[str, LayerStatistics]:
        """Return what is known of the layers, where somebody looked at activations as well."""
        if probe is None and self.modules is None:
            return {}
        found = layers.by_layer(numbers, self.parts)
        if self.modules is None:
            return found
        seen = activations.statistics(numbers["activations"].reshape(-1, len(activations.FIELDS)), self.modules)
        return {**seen, **{name: layer.joined(seen.get(name)) for name, layer in found.items()}}


def take(
    step: int,
    news: News,
    look: Look | None = None,
    *,
    before: torch.Tensor | None = None,
    gradients: bool = True,
    seen: Seen | None = None,
    probe: Found | None = None,
    findings: Findings | None = None,
) -> Taken:
    """Gather what a sample needs in one tensor and start its way to the host.

    Args:
        step: The step that it is of.
        news: Numbers of single steps.
        look: The weights now; None for a sample of scalars alone.
        before: Rows of the look one step before, parts × sketch dimension.
        gradients: Whether to read the norms of the gradients.
        seen: Statistics of activations.
        probe: What a probe pass found.
        findings: What was seen away from the weights.
    """
    scalars, (beats, pulsed) = news
    findings = findings or Findings()
    pieces: list[tuple[str, torch.Tensor]] = []
    parts = look.parts if look is not None else []
    if look is not None:
        pieces += weights.reduced(look.rows, before).items()
        if gradients:
            pieces.append(("gradients", weights.gradient_norms(parts, look.rows.device)))
        if seen is not None:
            pieces.append(("activations", seen[0].reshape(-1)))
    if probe is not None:
        pieces += [(_PROBE + name, values) for name, values in probe.tensors.items()]
    if findings.gradient is not None:
        pieces.append(("gradient", findings.gradient))
    if findings.losses is not None:
        pieces.append(("slice", findings.losses))
    if pulsed is not None:
        pieces.append(("pulse", pulsed.reshape(-1)))
    if scalars.on_device:
        first = scalars.on_device[0].device
        pieces.append(("scalars", torch.stack([value.to(first) for value in scalars.on_device])))
    device = pieces[0][1].device if pieces else torch.device("cpu")  # they may come from several
    whole = [piece.to(device) for _, piece in pieces] or [torch.zeros(0, device=device)]
    host, event = _to_host(torch.cat(whole))
    return Taken(
        step,
        scalars,
        [part.name for part in parts],
        [len(part.shape) > 1 for part in parts],
        [(name, len(piece)) for name, piece in pieces],
        host,
        event,
        seen[1] if seen is not None and look is not None else None,
        probe.reading if probe is not None else None,
        beats,
        findings,
    )


def _to_host(numbers: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """Start a copy to the host; on CUDA it does not block and is whole once the event has passed."""
    if numbers.device.type != "cuda":
        return numbers.cpu(), None
    pinned = torch.empty(numbers.shape, dtype=numbers.dtype, device="cpu", pin_memory=True)
    with torch.cuda.device(numbers.device):
        pinned.copy_(numbers, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch leaves it untyped
        event.record()
    return pinned, event
