"""What a probe pass found: tensors that a sample takes along from the device, and what they say once on the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from topowatch_client.activations import FIELDS, statistics
from topowatch_client.messages import ProbeResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from topowatch_client.messages import Array


@dataclass(frozen=True)
class Reading:
    """How to read the numbers of a pass."""

    layer: str  # that the frames are of
    positions: int
    weights: Sequence[int]  # positions of each call of the model whose loss is known
    modules: Sequence[str]  # whose activations were seen

    def result(self, numbers: Mapping[str, Array]) -> ProbeResult:
        """Return what the pass found.

        Args:
            numbers: float32 by name, flat: `sketch`, `activations` (modules × FIELDS), and where there is something to
                say `argmax` (exact below 2^24), `confidence`, `losses` (one a position) or `means` (one a call),
                `frames`.
        """
        losses, frames = numbers.get("losses"), numbers.get("frames")
        mean = None if losses is None else float(losses.mean())
        if "means" in numbers:
            mean = float(np.average(numbers["means"], weights=self.weights))
        return ProbeResult(
            sketch=numbers["sketch"],
            argmax=numbers.get("argmax", np.zeros(0)).astype(np.uint32),
            confidence=numbers.get("confidence", np.zeros(0)).astype(np.float16),
            losses=losses,
            mean_loss=mean,
            layer="" if frames is None else self.layer,
            frames=None if frames is None else frames.reshape(self.positions, -1).astype(np.float16),
            layers=statistics(numbers["activations"].reshape(-1, len(FIELDS)), self.modules),
        )


class Found(NamedTuple):
    """What a pass found, where the model computed it; nothing has waited for the device."""

    tensors: dict[str, torch.Tensor]  # float32, as `Reading.result` wants them
    reading: Reading
