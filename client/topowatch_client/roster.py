"""Tells whether a model still has the parameters that it had, which is faster than to name them all anew."""

from __future__ import annotations

import operator
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


class Roster:
    """The parameters that a model has at one moment and where they are; keeps none of them alive."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._names, found = _walk(model)
        self._empty = [parameter is None for parameter in found]
        self._parameters = [weakref.ref(parameter) for parameter in found if parameter is not None]

    def still_holds(self, model: torch.nn.Module) -> bool:
        """Say whether all are where they were, and no others have come."""
        names, found = _walk(model)
        if names != self._names or [parameter is None for parameter in found] != self._empty:
            return False
        there = [parameter for parameter in found if parameter is not None]
        return all(map(operator.is_, [known() for known in self._parameters], there))


def first_parameter(model: torch.nn.Module) -> torch.nn.Parameter | None:
    """Return a parameter near the top, always the same; `next(model.parameters())` takes several times as long."""
    parameters = (parameter for module in _modules(model) for parameter in module._parameters.values())
    return next((parameter for parameter in parameters if parameter is not None), None)


def _walk(model: torch.nn.Module) -> tuple[list[str], list[torch.nn.Parameter | None]]:
    """Return the names of modules and parameters within their modules, and what is under those of parameters."""
    names: list[str] = []
    found: list[torch.nn.Parameter | None] = []
    for module in _modules(model):
        names += module._parameters.keys()
        found += module._parameters.values()
        names.append("")  # what follows are modules
        names += [name for name, child in module._modules.items() if child is not None]
        names.append("")
    return names, found


def _modules(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Yield the model and all modules below it once each, those near the top first."""
    found, seen = [model], {model}
    for module in found:  # grows
        yield module
        for child in module._modules.values():
            if child is not None and child not in seen:
                seen.add(child)
                found.append(child)
