"""Features of the watched layer, from which frames are made."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from topowatch_client.probe_set import ProbeError
from topowatch_client.sketch import name_key, signs, to_device

if TYPE_CHECKING:
    from collections.abc import Iterator


FRAME_FEATURES = 64
_INPUT_MARK = ":input"


def find_layer(model: nn.Module, name: str | None) -> tuple[str, nn.Module | None]:
    """Return (name, module) of the layer to watch: the named one's output, or the input of the last Linear.

    Raises:
        ProbeError: No module has that name.
    """
    modules = dict(model.named_modules())
    if name is not None:
        if name not in modules:
            raise ProbeError(f"the model has no module named {name!r}")
        return name, modules[name]
    linear = linears(model)
    return (linear[-1][0] + _INPUT_MARK, linear[-1][1]) if linear else ("", None)


def linears(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    """Return the Linear layers that are called as such; attention reads the weights of its last one itself."""
    uncalled = nn.modules.linear.NonDynamicallyQuantizableLinear
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not isinstance(module, uncalled)
    ]


class Features:
    """What the watched layer made in one probe pass."""

    def __init__(self, layer: str, module: nn.Module | None) -> None:
        self._layer = layer
        self._module = module
        self._caught: list[torch.Tensor] = []
        self._parts: list[torch.Tensor] = []
        self.problem = "" if module is not None else "the model has no Linear whose input could be watched"

    @contextlib.contextmanager
    def catching(self) -> Iterator[None]:
        """Catch what the layer makes while the block runs."""
        if self._module is None:
            yield
            return
        by_input = self._layer.endswith(_INPUT_MARK)
        register = self._module.register_forward_pre_hook if by_input else self._module.register_forward_hook
        handle = register(lambda _module, arguments, *result: self._catch(result[0] if result else arguments))
        try:
            yield
        finally:
            handle.remove()

    def _catch(self, made: Any) -> None:
        if isinstance(made, Mapping):
            made = list(made.values())
        if isinstance(made, (tuple, list)):
            made = next((part for part in made if isinstance(part, torch.Tensor)), None)
        if isinstance(made, torch.Tensor):
            self._caught.append(made.detach())

    def take(self, examples: int, positions: int, kept: torch.Tensor) -> None:
        """Keep what one call made at the positions that are looked at.

        Args:
            examples: Of the call.
            positions: Output positions of an example.
            kept: Indices of the rows to keep among examples × positions.
        """
        caught, self._caught = self._caught, []
        if len(caught) != 1:
            self.problem = self.problem or f"it ran {len(caught)} times in a forward pass"
            return
        features = caught[0].full_tensor() if hasattr(caught[0], "full_tensor") else caught[0]
        shape = tuple(features.shape)
        if positions == 1 and features.dim() > 2 and shape[0] == examples:
            features = features.flatten(1)
        rows = features.reshape(-1, shape[-1]) if features.dim() > 2 else features
        if features.dim() >= 2 and rows.shape[0] == examples * positions:
            self._parts.append(rows[to_device(kept, rows.device)])
        elif features.dim() >= 2 and rows.shape[0] == len(kept):  # the head was given these positions alone
            self._parts.append(rows)
        else:
            self.problem = self.problem or f"its features {shape} do not fit {examples * positions} output positions"

    def result(self, table: dict[int, torch.Tensor], seed: int) -> torch.Tensor | None:
        """Return frames, float32 that float16 can hold (positions × at most 64), None where there was a problem.

        Wider features are multiplied by fixed random signs; narrower ones travel as they are.

        Args:
            table: Keeps the signs for the next time, by width.
            seed: Of the signs.
        """
        if self.problem:
            return None
        features = torch.cat(self._parts).float()
        width = features.shape[1]
        if width > FRAME_FEATURES:
            if width not in table:
                key = name_key(f"topowatch/frames/{width}") ^ seed
                flat = torch.from_numpy(signs(key, width * FRAME_FEATURES)).to(features.device)
                table[width] = flat.view(width, FRAME_FEATURES) / FRAME_FEATURES**0.5
            features = features @ table[width].to(features.device)
        limit = float(np.finfo(np.float16).max)
        return features.clamp(-limit, limit)
