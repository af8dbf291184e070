"""Tells whether a model still has the parameters that it had, which is faster than to name them all anew."""

from __future__ import annotations

import operator
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
        if names != self._names or len(parameters) != len(self._parameters):
            return False
        return all(map(operator.is_, [known() for known in self._parameters], parameters))


def first_parameter(model: torch.nn.Module) -> torch.nn.Parameter | None:
    """Return the first parameter on the way down; `next(model.parameters())` takes several times as long."""
    waiting: list[torch.nn.Module | None] = [model]
    while waiting:
        module = waiting.pop()
        if module is not None:
            for parameter in module._parameters.values():
                if parameter is not None:
                    return parameter
            waiting.extend(reversed(module._modules.values()))
    return None


def _walk(model: torch.nn.Module) -> tuple[list[str], list[torch.nn.Parameter]]:
    """Return the names of modules and parameters within their modules, and the parameters: in few calls of Python."""
    names: list[str] = []
    found: list[torch.nn.Parameter | None] = []
    modules, seen = [model], {model}
    for module in modules:  # grows
        names += (*module._parameters, "", *module._modules, "")
        found += module._parameters.values()
        for child in module._modules.values():
            if child is not None and child not in seen:
                seen.add(child)
                modules.append(child)
    return names, [parameter for parameter in found if parameter is not None]
