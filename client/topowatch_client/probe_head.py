"""Applies a model's head at chosen positions alone, where the logits of a whole sequence would be too many."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import torch

from topowatch_client.probe_features import linears
from topowatch_client.sketch import to_device

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

_RELATIVE = 2**-7  # by which numbers may differ that were computed in another shape, in bfloat16


def find_head(model: nn.Module, classes: int) -> nn.Linear | None:
    """Return the last Linear that makes so many outputs, tied to an embedding or not."""
    return next((module for _, module in reversed(linears(model)) if module.out_features == classes), None)


@contextlib.contextmanager
def narrowed(head: nn.Linear, positions: int, offsets: torch.Tensor) -> Iterator[None]:
    """Give `head` the chosen positions (examples × k) alone of inputs (examples × positions × width).

    It then makes (examples × k × classes). Inputs of other shapes pass as they are.
    """

    def pick(_module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *others = arguments or (None,)
        if not isinstance(hidden, torch.Tensor) or hidden.dim() != 3 or hidden.shape[1] != positions:
            return arguments
        index = to_device(offsets, hidden.device).unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
        return (hidden.gather(1, index), *others)

    handle = head.register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


def agree(whole: torch.Tensor, chosen: torch.Tensor, narrow: torch.Tensor) -> bool | None:
    """Compare outputs or losses of one example, made in full, with those made at chosen positions alone.

    Args:
        whole: (positions × anything), in full.
        chosen: int64 (k), ascending: which positions were chosen.
        narrow: (k × anything), made at these alone.

    Returns:
        Whether they are equal up to rounding; None if all positions look alike or hold NaN, which proves nothing.
    """
    if narrow.dim() != whole.dim() or narrow.shape[0] != len(chosen):
        return False
    full = whole[chosen.to(whole.device)].float()
    rounding = float(full.abs().max()) * _RELATIVE
    difference = float((full - narrow.float()).abs().max())
    if math.isnan(difference):
        return None
    if difference > rounding:
        return False
    strided = whole if whole.dim() == 1 else whole[:, :: max(1, whole.shape[1] // 64)]
    alike = float((strided[0] - strided).abs().max()) <= 4 * rounding
    return None if alike else True
