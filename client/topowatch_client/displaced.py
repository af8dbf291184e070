"""Moves the weights of a model for a moment and puts them back bit by bit, by copy and never by subtraction.

The job's own signal handlers wait meanwhile, because one may save the model. Versions of the tensors do not change: a
graph that waits for its backward pass finds what it has kept.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import torch

from topowatch_client import guard
from topowatch_client.untouched import is_collective

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LARGEST_BYTES = 64 << 20  # of what is moved: up to four copies of it are held for a while


class ImmovableError(ValueError):
    """The weights stay where they are; the message says why."""


def trainable(model: torch.nn.Module) -> list[torch.Tensor]:
    """Return the parameters that training moves.

    Raises:
        ImmovableError: They are sharded, larger than `LARGEST_BYTES`, of a kind that a copy does not restore, shared
            with other processes, or none.
    """
    if is_collective(model):
        raise ImmovableError("the model is sharded")
    found = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not found:
        raise ImmovableError("the model has no parameters that are trained")
    check_size("its trained parameters take", found)
    for parameter in found:
        plain = type(parameter.data) is torch.Tensor and parameter.layout is torch.strided
        if not plain or not parameter.is_floating_point() or parameter.device.type == "meta":
            raise ImmovableError(f"a parameter of {tuple(parameter.shape)} is no plain tensor of real numbers")
        if parameter.device.type == "cpu" and parameter.is_shared():  # type: ignore[no-untyped-call] # torch leaves it so
            raise ImmovableError("other processes share the weights")
    return list(found)


def statistics(model: torch.nn.Module) -> list[torch.Tensor]:
    """Return the buffers of real numbers, which training may move beside the parameters, such as running means.

    Raises:
        ImmovableError: They are larger than `LARGEST_BYTES`.
    """
    found = [
        buffer
        for buffer in model.buffers()
        # What is expanded cannot be written to, so training does not move it either.
        if buffer.is_floating_point() and buffer.device.type != "meta" and not _is_expanded(buffer)
    ]
    check_size("its buffers take", found)
    return found


def _is_expanded(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and any(
        stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    )


def check_size(what: str, tensors: Sequence[torch.Tensor]) -> None:
    """Raise ImmovableError, which begins with `what`, where copies of all these would be too large."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if size > LARGEST_BYTES:
        raise ImmovableError(f"{what} {size >> 20} MiB, and copies are made of up to {LARGEST_BYTES >> 20} MiB")


def copies(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return copies that nothing else holds."""
    return [tensor.detach().clone() for tensor in tensors]


def put(tensors: Sequence[torch.Tensor], values: Sequence[torch.Tensor]) -> None:
    """Write values into tensors of the same shapes; their versions stay."""
    for tensor, value in zip(tensors, values, strict=True):
        tensor.data.copy_(value)


@contextlib.contextmanager
def moving(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Yield copies of the tensors, and put these back when the block ends, whatever it has written or raised.

    Raises:
        ImmovableError: This is not the main thread, where alone signal handlers can be made to wait.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ImmovableError("optimiser steps are not taken in the main thread")
    home = copies(tensors)
    with guard.signals_held():
        try:
            yield home
        finally:
            put(tensors, home)
