"""One look at the weights: sketches of all parts that this rank sends, and the norms of what they are made of."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from topowatch_client.sketch import to_device

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from topowatch_client.messages import Array
    from topowatch_client.shards import Shards
    from topowatch_client.sketch import FoldSketch, Part

ABSENT = -1.0  # the norm of a gradient that is not there; NaN is that of one which is not finite
_FROZEN = operator.attrgetter("frozen")
_KIND = operator.attrgetter("dtype", "device")
_FROZEN_LOOKS = 16  # after which a frozen part is read again: what writes to `.data` leaves no trace to see


class Look(NamedTuple):
    """What the weights are now."""

    parts: list[Part]
    rows: torch.Tensor  # parts × sketch dimension, float32, on the parts' device


class _Kept(NamedTuple):
    address: int
    version: int
    row: torch.Tensor
    looks: int


class Weights:
    """Looks at the parts of a model. Frozen ones are read again only when they change, or now and then."""

    def __init__(self, shards: Shards, sketch: FoldSketch) -> None:
        self.shards = shards
        self._sketch = sketch
        self._frozen: dict[tuple[str, tuple[int, ...]], _Kept] = {}

    def release(self) -> None:
        """Keep nothing of the model."""
        self.shards.release()
        self._frozen.clear()

    def look(self) -> Look:
        """Sketch every part; on an accelerator nothing waits for it."""
        parts = self.shards.held()
        devices = {part.values.device for part in parts}
        if len(devices) <= 1:
            return Look(parts, self._rows(parts))
        target = max(devices, key=lambda device: device.type != "cpu")
        rows: dict[int, torch.Tensor] = {}
        for device in devices:
            chosen = [index for index, part in enumerate(parts) if part.values.device == device]
            rows |= dict(zip(chosen, self._rows([parts[index] for index in chosen]).to(target), strict=True))
        return Look(parts, torch.stack([rows[index] for index in range(len(parts))]))

    def gradient(self, parts: Sequence[Part]) -> torch.Tensor | None:
        """Sketch the gradient of all parts that are trained; None unless each has a dense one, all on one device."""
        trained = [part for part in parts if not part.frozen]
        found = [part._replace(values=part.gradient) for part in trained if part.gradient is not None]
        dense = all(part.values.layout is torch.strided for part in found)
        if not found or len(found) < len(trained) or not dense or len({part.values.device for part in found}) > 1:
            return None
        return self._sketch.matrix(found).sum(0)

    def _rows(self, parts: Sequence[Part]) -> torch.Tensor:
        """Return the sketches of parts on one device."""
        if not any(map(_FROZEN, parts)):
            return self._sketch.matrix(parts)
        known = [self._known(part) for part in parts]
        read = iter(self._sketch.matrix([part for part, row in zip(parts, known, strict=True) if row is None]))
        rows = [next(read) if row is None else row for row in known]
        for part, row, reused in zip(parts, rows, known, strict=True):
            if part.frozen:
                looks = 0 if reused is None else self._frozen[_place(part)].looks + 1
                self._frozen[_place(part)] = _Kept(*_state(part), row, looks)
        return torch.stack(rows)

    def _known(self, part: Part) -> torch.Tensor | None:
        kept = self._frozen.get(_place(part)) if part.frozen else None
        same = kept is not None and (kept.address, kept.version) == _state(part)
        return kept.row if kept is not None and same and kept.looks < _FROZEN_LOOKS else None


def reduced(rows: torch.Tensor, before: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """Return the sketch of all parts and the norm of each: `weights`, `norms`, of the change `update`, `changes`.

    Args:
        rows: Sketches of the parts, parts × sketch dimension.
        before: The same one step before.
    """
    found = {"weights": rows.sum(0), "norms": torch.linalg.vector_norm(rows, dim=1)}
    if before is None:
        return found
    change = rows - before
    return {**found, "update": change.sum(0), "changes": torch.linalg.vector_norm(change, dim=1)}


@torch.no_grad()
def gradient_norms(parts: Sequence[Part], device: torch.device) -> torch.Tensor:
    """Return the norm of each part's gradient, float32 on `device`: ABSENT where there is no dense one."""
    dense = {
        index: part.gradient
        for index, part in enumerate(parts)
        if part.gradient is not None and part.gradient.layout is torch.strided
    }
    kinds = set(map(_KIND, dense.values()))
    if len(kinds) == 1 and len(dense) == len(parts):
        return torch.stack(_norms(list(dense.values()))).to(device, torch.float32)
    norms = torch.full((len(parts),), ABSENT, dtype=torch.float32, device=device)
    for kind in kinds:
        chosen = {index: gradient for index, gradient in dense.items() if _KIND(gradient) == kind}
        found = torch.stack(_norms(list(chosen.values())))
        places = torch.tensor(list(chosen), device="cpu")
        norms[to_device(places, device)] = found.to(device, torch.float32)
    return norms


def summary(numbers: Mapping[str, Array], matrices: Sequence[bool], *, shard: bool = False) -> dict[str, float]:
    """Reduce norms of parts to a few scalars.

    Args:
        numbers: `weights`, the sketch of all; `norms`, `changes` and `gradients`, one a part. All optional.
        matrices: For each part, whether its parameter has two dimensions or more: ratios are taken of those alone,
            as biases start from zero.
        shard: The parts are one rank's share, whose norms are added to those of others: nothing counts as 0.
    """
    scalars: dict[str, float] = {}
    norms = numbers["norms"].tolist() if "norms" in numbers else []
    if "norms" in numbers:
        scalars["weight_norm"] = math.hypot(*norms)
        if not np.isfinite(numbers["weights"]).all():
            scalars["nonfinite_weights"] = 1.0
    if "changes" in numbers:
        changes = numbers["changes"].tolist()
        scalars["update_norm"] = math.hypot(*changes)
        pairs = zip(matrices, norms, changes, strict=True)
        comparable = (pair for pair in pairs if pair[0] and pair[1] > 0 and pair[2] >= 0)  # NaN is not
        ratios = sorted(change / norm for _, norm, change in comparable)
        if ratios:
            scalars["update_ratio_max"] = ratios[-1]
            scalars["update_ratio_median"] = (ratios[len(ratios) // 2] + ratios[(len(ratios) - 1) // 2]) / 2
    if "gradients" in numbers:
        known = [norm for norm in numbers["gradients"].tolist() if norm != ABSENT]
        if shard or known:
            scalars["gradient_norm"] = math.hypot(*known)
    return scalars


def finite(sketch: Array | None) -> Array | None:
    """Return a sketch if all of it is finite."""
    return sketch if sketch is not None and np.isfinite(sketch).all() else None


def _norms(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return norms of tensors of one type, summed in no less than float32 and no narrower, as torch asks."""
    wide = torch.promote_types(tensors[0].dtype, torch.float32)
    if tensors[0].dtype == wide:
        return list(torch._foreach_norm(tensors, 2))
    return [torch.linalg.vector_norm(tensor, dtype=wide) for tensor in tensors]  # torch 2.2 has no other way


def _place(part: Part) -> tuple[str, tuple[int, ...]]:
    return part.name, part.starts


def _state(part: Part) -> tuple[int, int]:
    return part.values.data_ptr(), part.values._version
