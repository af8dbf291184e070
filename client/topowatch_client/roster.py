"""Tells whether a model still has the parameters that it had, which is faster than to name them all anew."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Roster:
    """The parameters that a model has at one moment and where they are; keeps none of them alive."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._names, parameters = _walk(model)
        self._parameters = [weakref.ref(parameter) for parameter in parameters]

    def still_holds(self, model: torch.nn.Module) -> bool:
        """Say whether all are where they were, and no others have come."""
        names, parameters = _walk(model)
        return names == self._names and all(
            known() is parameter for known, parameter in zip(self._parameters, parameters, strict=True)
        )


def _walk(model: torch.nn.Module) -> tuple[list[str], list[torch.nn.Parameter]]:
    """Return the names of modules and parameters within their modules, and the parameters."""
    names, parameters, seen, waiting = [], [], set(), [model]
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        for name, parameter in module._parameters.items():
            if parameter is not None:
                names.append(name)
                parameters.append(parameter)
        names.append("")  # what follows are modules
        for name, child in module._modules.items():
            if child is not None:
                names.append(name)
                waiting.append(child)
    return names, parameters
