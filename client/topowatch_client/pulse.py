"""A pulse: how a small fixed sample of the parameters moves, at nearly every step, for what sketches come too rarely.

A beat is one tensor of few numbers, which stays on the device until the next item takes it along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from topowatch_client.scalars import Series
from topowatch_client.sketch import to_device
from topowatch_client.weights import ABSENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

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
    size: int  # of the parameter, in elements
    device: torch.device
    find_gradient: Callable[[], torch.Tensor | None] | None  # see `Part`

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a view of the place in a tensor as large as the parameter."""
        return tensor.as_strided((self.length,), (1,), tensor.storage_offset() + self.start)

    def is_there(self) -> bool:
        """Say whether the parameter has it now: it may be given anything by `.data`, or its memory be taken away."""
        now = self.parameter
        return now.numel() == self.size and now.device == self.device and _is_dense(now) and now.data_ptr() != 0


class Pulse:
    """Feels how a model moves. Reads no number back, so that on an accelerator nothing waits.

    Args:
        norms: The model's batch norms.
    """

    def __init__(self, norms: Sequence[torch.nn.Module] = ()) -> None:
        self._norms = norms
        self._variances: list[torch.Tensor] = []
        self._averages = torch.zeros(0, device="cpu")
        self._usual: torch.Tensor | None = None
        self._places: list[_Place] = []
        self._views: list[torch.Tensor] = []
        self._addresses: list[int] = []
        self._known: tuple[int, torch.Tensor] | None = None  # the sample at the end of a step
        self._beats: list[tuple[int, torch.Tensor]] = []
        self._absent: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self._beats)

    @torch.no_grad()
    def choose(self, step: int, parts: Iterable[Part]) -> None:
        """Take the sample from these parts, as they are at the end of `step`, unless it is theirs already."""
        places = _places([part for part in parts if not part.frozen])
        addresses = _addresses(place.parameter for place in places)
        if addresses != self._addresses:
            self._places, self._addresses = places, addresses
            self._views = self._find()
            self.remember(step)
        found = _first_channels(_variances(self._norms))  # a model that moved or was loaded has others now
        if _addresses(found) != _addresses(self._variances):
            self._variances, self._averages, self._usual = found, _averages(found), None

    def restart(self) -> None:
        """Forget the path so far: the job goes on from elsewhere."""
        self._known = self._usual = None
        self._beats = []

    def release(self) -> None:
        """Keep nothing of the model."""
        self._norms = ()
        self._variances, self._places, self._views, self._addresses = [], [], [], []
        self.restart()

    @torch.no_grad()
    def remember(self, step: int) -> None:
        """Keep the sample at the end of `step`, as the next step's beat is to tell the update."""
        sample = self._sample()
        self._known = (step, sample) if sample is not None else None

    @torch.no_grad()  # gradients may hang on a graph, which a beat would keep
    def beat(self, step: int) -> None:
        """Take in the end of `step`; its gradients must still be there."""
        sample = self._sample()
        if sample is None:
            return
        if self._absent is None or self._absent.device != sample.device:
            self._absent = sample.new_full((), ABSENT)
        moved = None
        if self._known is not None and self._known[0] == step - 1:
            update = sample - self._known[1]
            moved = torch.dot(update, update)
        self._known = (step, sample)
        drift = self._drift(sample.device) if step % _DRIFT_EVERY == 0 else None
        numbers = (self._gradient_norm(), torch.dot(sample, sample), moved, drift)
        self._beats.append((step, torch.stack([self._absent if each is None else each for each in numbers])))

    def take(self) -> Beats:
        """Hand out the beats' steps and numbers (beats × 4, see `series`) and forget them."""
        beats, self._beats = self._beats, []
        return [step for step, _ in beats], torch.stack([numbers for _, numbers in beats]) if beats else None

    def _sample(self) -> torch.Tensor | None:
        """Copy the sample; None where a parameter has no place for it now."""
        addresses = _addresses(place.parameter for place in self._places)
        if addresses != self._addresses:  # from now on no view is kept: it would hold memory that the job gives away
            self._addresses, self._views = addresses, []
        views = self._views or self._find()
        if len(views) < len(self._places):
            self._addresses = []  # what is chosen at the next look is new
            return None
        return torch.cat(views).float() if views else None

    def _find(self) -> list[torch.Tensor]:
        return [place.of(place.parameter) for place in self._places if place.is_there()]

    def _gradient_norm(self) -> torch.Tensor | None:
        found = [
            place.of(gradient)
            for place in self._places
            if (gradient := place.find_gradient() if place.find_gradient else place.parameter.grad) is not None
            and _is_dense(gradient)
        ]
        return torch.linalg.vector_norm(torch.cat(found).float()) if found else None

    def _drift(self, device: torch.device) -> torch.Tensor | None:
        if not self._variances:
            return None
        logarithms = torch.cat(self._variances).float().clamp_min_(_TINY).log_()
        now = (self._averages * logarithms).sum(1)  # autocast would make a product of matrices coarse
        if self._usual is None:
            self._usual = now.nan_to_num(0.0, 0.0)  # what is not finite is taken to begin at 1, as batch norm does
        drift = (now - self._usual).abs().max()
        self._usual = torch.lerp(self._usual, torch.where(now.isfinite(), now, self._usual), 1 / _MEMORY)
        return drift.to(device)


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


def norms(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return all modules that keep a running variance, in their order."""
    return [module for module in model.modules() if "running_var" in module._buffers]


def _variances(norms: Sequence[torch.nn.Module]) -> list[torch.Tensor]:
    named = (module._buffers.get("running_var") for module in norms)
    return [each for each in named if each is not None and each.is_floating_point() and each.device.type != "meta"]


def _addresses(tensors: Iterable[torch.Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def _places(parts: Sequence[Part]) -> list[_Place]:
    """Choose parts that lie evenly among those of two dimensions or more (of all, where there are none)."""
    whole = [part for part in parts if part.values.numel() and _is_dense(part.values)]
    matrices = [part for part in whole if len(part.shape) > 1] or whole
    here = [part for part in matrices if part.values.device == matrices[0].values.device]
    wanted = min(_PARTS, len(here))
    places = []
    for part in (here[index * len(here) // wanted] for index in range(wanted)):
        values, size = part.values, part.values.numel()
        count = min(size, _ELEMENTS)
        places.append(_Place(values, (size - count) // 2, count, size, values.device, part.find_gradient))
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


def _averages(variances: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the matrix that averages stretches of a vector, layers × elements, float32 on the device of these."""
    matrix = torch.zeros(len(variances), sum(map(len, variances)), dtype=torch.float32, device="cpu")
    place = 0
    for row, each in zip(matrix, variances, strict=True):
        row[place : place + len(each)] = 1 / len(each)
        place += len(each)
    return to_device(matrix, variances[0].device) if variances else matrix
