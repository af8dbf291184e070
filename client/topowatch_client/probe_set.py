"""The examples of a probe set as users give them: a tensor, a tuple or a mapping of tensors, one example a row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from topowatch_client.sketch import to_device

if TYPE_CHECKING:
    from topowatch_client.messages import Array

OUTPUTS = ("logits", "probs", "values")
IGNORED = -100  # the class index that torch's losses leave out
_DIGEST_BYTES = 4 << 20


class ProbeError(ValueError):
    """The probe set cannot be used; the message says why."""


@dataclass(frozen=True)
class ProbeSettings:
    """How to look at a model, as given to `attach`.

    Targets belong to outputs row by row: those of a language model are the tokens that follow, already shifted.
    Positions whose integer target is −100 are not looked at.
    """

    inputs: Any  # tensor, tuple of tensors, or mapping of names to tensors; the first dimension counts examples
    targets: Any = None
    loss: Callable[[Any, Any], Any] | None = None
    forward: Callable[[Any, Any], Any] | None = None
    output: str = "logits"
    layer: str | None = None
    positions: int = 256


def tensors(whole: Any) -> list[torch.Tensor]:
    """Return the tensors among inputs or targets."""
    if isinstance(whole, torch.Tensor):
        return [whole]
    values = whole.values() if isinstance(whole, Mapping) else whole if isinstance(whole, (tuple, list)) else ()
    return [value for value in values if isinstance(value, torch.Tensor)]


def change(whole: Any, how: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return inputs or targets with `how` applied to each tensor; what is no tensor stays as it is."""
    if isinstance(whole, torch.Tensor):
        return how(whole)
    if isinstance(whole, Mapping):
        return {key: how(value) if isinstance(value, torch.Tensor) else value for key, value in whole.items()}
    if isinstance(whole, (tuple, list)):
        return tuple(how(value) if isinstance(value, torch.Tensor) else value for value in whole)
    return whole


def rows(whole: Any, chosen: Array) -> Any:
    """Return a copy of the chosen examples, each tensor on its own device."""
    index = torch.from_numpy(chosen)
    return change(whole, lambda tensor: tensor.detach()[index.to(tensor.device)])


def along_positions(whole: Any, positions: int, offsets: torch.Tensor) -> Any:
    """Take entries of the second dimension.

    Args:
        whole: Tensors (examples × positions × …); others are left alone.
        positions: Size of the second dimension of those that are meant.
        offsets: int64 (examples × k), which entries.

    Returns:
        The same with tensors (examples × k × …).
    """

    def take(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() < 2 or tensor.shape[1] != positions:
            return tensor
        index = to_device(offsets, tensor.device).view(*offsets.shape, *[1] * (tensor.dim() - 2))
        return tensor.gather(1, index.expand(*offsets.shape, *tensor.shape[2:]))

    return change(whole, take)


def count(inputs: Any) -> int:
    """Return the number of examples.

    Raises:
        ProbeError: These are no inputs, or tensors disagree.
    """
    lengths = {tensor.shape[0] if tensor.dim() else 0 for tensor in tensors(inputs)}
    if len(lengths) != 1 or 0 in lengths:
        raise ProbeError("probe inputs must be a tensor, a tuple or a mapping of tensors with one example a row")
    return lengths.pop()


def check_targets(targets: Any, examples: int) -> None:
    """Raise ProbeError unless there is one target an example."""
    for tensor in tensors(targets):
        given = tensor.shape[0] if tensor.dim() else 0
        if given != examples:
            raise ProbeError(
                f"probe inputs have {examples} rows and the targets {given}: one target an example is needed"
            )


def counted(targets: Any, examples: int) -> Array:
    """Return which targets count, bool (examples × targets an example); one true column where nobody can tell.

    Raises:
        ProbeError: None does.
    """
    if not isinstance(targets, torch.Tensor) or targets.is_floating_point() or not targets.numel():
        return np.ones((examples, 1), bool)
    valid: Array = (targets.detach().reshape(examples, -1) != IGNORED).cpu().numpy()
    if not valid.any():
        raise ProbeError(f"every target of the probe set is {IGNORED}, which means: ignore me")
    return valid


def digest(inputs: Any, offsets: Array) -> bytes:
    """Hash a probe set with SHA-256: equal where runs can be compared.

    Args:
        inputs: The examples that are looked at; of tensors beyond 4 MiB an evenly spaced part is read.
        offsets: int64 (examples × k), the positions; alone in their sequence they add nothing.
    """
    hashed = hashlib.sha256()
    for tensor in tensors(inputs):
        hashed.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
        flat = tensor.detach().reshape(-1)
        stride = max(1, flat.numel() * flat.element_size() // _DIGEST_BYTES)
        part = flat[::stride].cpu().contiguous()
        hashed.update(part.view(torch.uint8).numpy().tobytes() if part.numel() else b"")
    if offsets.any():
        hashed.update(offsets.astype("<i8").tobytes())
    return hashed.digest()
