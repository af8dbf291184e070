"""A random filter-normalised 2-D slice of the loss (Li et al., NeurIPS 2018, arXiv 1712.09913), a point at a time.

The plane goes through the weights as they were when the slice was begun; training goes on meanwhile. Its directions are
drawn from a seed of their own and scaled so that each filter is as long as that of the weights; parameters of fewer
than two dimensions (biases, norms) stay where they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from topowatch_client.displaced import copies, moving, put, statistics, trainable

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

EXTENT = 1.0  # half the side of the plane, in filter norms
_TINY = 1e-30


def filter_normalised(weights: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw a Gaussian direction in which each filter (what one output is made of) is as long as the weights' own.

    Args:
        weights: (outputs × …); zeros come back for fewer than two dimensions.
        generator: Of the CPU, so that a seed gives one plane on every device.

    Returns:
        float32 of the same shape, on the device of the weights.
    """
    if weights.dim() < 2:
        return torch.zeros_like(weights, dtype=torch.float32)
    drawn = torch.randn(weights.shape, generator=generator, device="cpu", dtype=torch.float32).to(weights.device)
    rows = drawn.flatten(1)
    wanted = torch.linalg.vector_norm(weights.detach().float().flatten(1), dim=1)
    scale = wanted / torch.linalg.vector_norm(rows, dim=1).clamp_min(_TINY)
    direction: torch.Tensor = (rows * scale[:, None]).reshape(weights.shape)
    return direction


class Slice:
    """A slice under way. Points are taken row after row; losses stay on the device until all are there.

    Args:
        model: Whose weights now are the centre; running statistics are held at what they are now, too.
        side: Points along each side.
        seed: Of the plane.

    Raises:
        ImmovableError: The weights cannot be moved.
    """

    def __init__(self, model: torch.nn.Module, side: int, seed: int) -> None:
        self.side = side
        self._losses: list[torch.Tensor] = []
        self._weights, self._statistics = trainable(model), statistics(model)
        self._centre, self._kept = copies(self._weights), copies(self._statistics)
        generator = torch.Generator(device="cpu").manual_seed(seed)
        self._directions = [
            [filter_normalised(weights, generator) for weights in self._centre],
            [filter_normalised(weights, generator) for weights in self._centre],
        ]

    @property
    def points(self) -> int:
        """Points taken so far."""
        return len(self._losses)

    @property
    def complete(self) -> bool:
        """Whether all are."""
        return self.points == self.side**2

    def take_point(self, losses: Callable[[], AbstractContextManager[Callable[[], torch.Tensor]]]) -> None:
        """Take the next point; nothing waits for the device."""
        row, column = divmod(self.points, self.side)
        with moving([*self._weights, *self._statistics]):
            put(self._statistics, self._kept)
            self._place(*(EXTENT * (2 * index / (self.side - 1) - 1) for index in (row, column)))
            with losses() as loss:
                self._losses.append(loss().detach().float())

    def result(self) -> torch.Tensor:
        """Return the losses, (side²), float32."""
        return torch.stack(self._losses)

    def _place(self, first: float, second: float) -> None:
        for weights, centre, one, other in zip(self._weights, self._centre, *self._directions, strict=True):
            weights.data.copy_(centre.float() + first * one + second * other)
