"""A pulse: how a small fixed sample of the parameters moves, at nearly every step, for what sketches come too rarely.

A beat is one tensor of few numbers, which stays on the device until the next item takes it along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from topowatch_client.scalars import Series
from topowatch_client.weights import ABSENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from topowatch_client.messages import Array
    from topowatch_client.sketch import Part

# Norm of the sample's gradient; norm of its last update over that of the sample; how far the running variances of batch
# norm stand from their recent mean, as a logarithm, in the layer where that is most.
NAMES = ("pulse_gradient_norm", "pulse_update_ratio", "norm_drift")
_PARTS = 8
_ELEMENTS = 512  # neighbours in memory, of each part
_DRIFT_EVERY = 4  # steps
_LAYERS = 16
_CHANNELS = 64  # of each layer
_MEMORY = 16  # looks at batch norm in the recent mean
_TINY = 1e-30
Beats = tuple[list[int], torch.Tensor | None]  # steps and their numbers


class _Place(NamedTuple):
    parameter: torch.Tensor
    start: int  # in memory, from its first element
    length: int

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a view of the place in a tensor as large as the parameter."""
        return tensor.as_strided((self.length,), (1,), tensor.storage_offset() + self.start)


class Pulse:
    """Feels how a model moves. Reads no number back, so that on an accelerator nothing waits.

    Args:
        variances: Running variances of the model's batch norms.
    """

    def __init__(self, variances: Sequence[torch.Tensor] = ()) -> None:
        self._variances = _first_channels(variances)
        self._averages = _averages([len(each) for each in self._variances])
        self._usual: torch.Tensor | None = None
        self._places: list[_Place] = []
        self._views: list[torch.Tensor] = []
        self._addresses: tuple[int, ...] = ()
        self._known: tuple[int, torch.Tensor] | None = None  # the sample at the end of a step
        self._beats: list[tuple[int, torch.Tensor]] = []
        self._absent: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self._beats)

    def choose(self, step: int, parts: Iterable[Part]) -> None:
        """Take the sample from these parts, as they are at the end of `step`, unless it is theirs already."""
        places = _places([part for part in parts if not part.frozen])
        addresses = tuple(place.parameter.data_ptr() for place in places)
        if addresses != self._addresses:
            self._places, self._addresses = places, addresses
            self._views = [place.of(place.parameter.detach()) for place in places]
            self._known = None
            self.remember(step)

    def release(self) -> None:
        """Keep nothing of the model."""
        self.choose(0, ())
        self._variances, self._beats, self._usual = [], [], None

    def remember(self, step: int) -> None:
        """Keep the sample at the end of `step`, as the next step's beat is to tell the update."""
        if self._views:
            self._known = (step, self._sample())

    def beat(self, step: int) -> None:
        """Take in the end of `step`; its gradients must still be there."""
        if not self._views:
            return
        sample = self._sample()
        if self._absent is None or self._absent.device != sample.device:
            self._absent = sample.new_full((), ABSENT)
        moved = None
        if self._known is not None and self._known[0] == step - 1:
            update = sample - self._known[1]
            moved = torch.dot(update, update)
        self._known = (step, sample)
        drift = self._drift() if step % _DRIFT_EVERY == 0 else None
        numbers = (self._gradient_norm(), torch.dot(sample, sample), moved, drift)
        self._beats.append((step, torch.stack([self._absent if each is None else each for each in numbers])))

    def take(self) -> Beats:
        """Hand out the beats' steps and numbers (beats × 4, see `series`) and forget them."""
        beats, self._beats = self._beats, []
        return [step for step, _ in beats], torch.stack([numbers for _, numbers in beats]) if beats else None

    def _sample(self) -> torch.Tensor:
        return torch.cat(self._views).float()

    def _gradient_norm(self) -> torch.Tensor | None:
        found = [
            place.of(gradient)
            for place in self._places
            if (gradient := place.parameter.grad) is not None and _is_dense(gradient)
        ]
        return torch.linalg.vector_norm(torch.cat(found).float()) if found else None

    def _drift(self) -> torch.Tensor | None:
        if not self._variances:
            return None
        now = self._averages.to(self._variances[0].device) @ torch.cat(self._variances).float().clamp_min(_TINY).log()
        if self._usual is None:
            self._usual = now
        drift = (now - self._usual).abs().max()
        self._usual = torch.lerp(self._usual, now, 1 / _MEMORY)
        return drift.to(self._views[0].device)


def series(steps: Sequence[int], numbers: Array) -> list[Series]:
    """Return what the beats tell, by name, without what is ABSENT.

    Args:
        steps: Of the beats.
        numbers: Beats × (norm of the gradient, squared norms of the sample and of its update, drift), on the host.
    """
    gradients, weights, moved, drifts = numbers.reshape(-1, 4).astype(np.float64).T
    with np.errstate(all="ignore"):
        ratios = np.sqrt(moved / np.maximum(weights, _TINY))
    columns = (gradients, gradients), (ratios, moved), (drifts, drifts)
    found = []
    for name, (column, sign) in zip(NAMES, columns, strict=True):
        there = np.flatnonzero(sign != ABSENT)
        if len(there):
            found.append(Series(name, [steps[index] for index in there], column[there].tolist()))
    return found


def variances(model: torch.nn.Module) -> list[torch.Tensor]:
    """Return the running variances of all batch norms, in their order."""
    named = (module._buffers.get("running_var") for module in model.modules())
    return [each for each in named if each is not None and each.is_floating_point() and each.device.type != "meta"]


def _places(parts: Sequence[Part]) -> list[_Place]:
    """Choose parts that lie evenly among those of two dimensions or more (of all, where there are none)."""
    whole = [part for part in parts if part.values.numel() and _is_dense(part.values)]
    matrices = [part for part in whole if len(part.shape) > 1] or whole
    here = [part for part in matrices if part.values.device == matrices[0].values.device]
    wanted = min(_PARTS, len(here))
    places = []
    for part in (here[index * len(here) // wanted] for index in range(wanted)):
        count = min(part.values.numel(), _ELEMENTS)
        places.append(_Place(part.values, (part.values.numel() - count) // 2, count))
    return places


def _is_dense(tensor: torch.Tensor) -> bool:
    """Say whether all of a tensor lies in memory without gaps, in whatever order."""
    if tensor.layout is not torch.strided:
        return False
    return tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))


def _first_channels(variances: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    chosen = [each for each in variances if each.numel() and each.device == variances[0].device]
    wanted = min(_LAYERS, len(chosen))
    return [chosen[index * len(chosen) // wanted].detach()[:_CHANNELS] for index in range(wanted)]


def _averages(lengths: Sequence[int]) -> torch.Tensor:
    """Return the matrix that averages stretches of a vector, layers × elements."""
    matrix = torch.zeros(len(lengths), sum(lengths), device="cpu")
    place = 0
    for row, length in zip(matrix, lengths, strict=True):
        row[place : place + length] = 1 / length
        place += length
    return matrix
