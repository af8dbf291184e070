"""Counts optimiser steps: when a step has ended, whatever number of optimisers takes it, and where a job stands."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from topowatch_client.roster import first_parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch


def optimizers_of(given: Any) -> list[torch.optim.Optimizer]:
    """Return the optimisers that `attach` was given: None, one, or several in a sequence or as values of a mapping.

    Wrappers that call `.optimizer.step()`, such as those of Accelerate, are taken off.

    Raises:
        TypeError: Something among them calls no hooks.
    """
    if given is None:
        return []
    if isinstance(given, Mapping):
        given = list(given.values())
    found = given if isinstance(given, Iterable) else [given]
    return [_unwrapped(each) for each in found]


def _unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    while hasattr(inner := getattr(optimizer, "optimizer", None), "step"):
        optimizer = inner
    if not hasattr(optimizer, "register_step_post_hook") or not hasattr(optimizer, "param_groups"):
        raise TypeError(
            f"the optimizer must be a torch.optim.Optimizer, or several of them, not {type(optimizer).__name__}; "
            "a loop with another kind leaves it out and calls Watch.step()"
        )
    return optimizer  # type: ignore[no-any-return] # it has all that we use of one


class StepCounter:
    """Tells when a step has ended.

    Of several optimisers (one a parameter, where they run within the backward pass; one a network of a GAN) a step ends
    when each has stepped once, or when one begins its next step before all others had theirs.

    Args:
        optimizers: In the order of the indices that `stepped` is called with.
        on_step: Called when a step has ended.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], on_step: Callable[[], None]) -> None:
        self._optimizers = optimizers
        self._stepped: set[int] = set()
        self._on_step = on_step

    def stepped(self, index: int) -> bool:
        """Take in that the optimiser at `index` was asked to step; return whether that counts."""
        if was_skipped(self._optimizers[index]) or _makes_states():
            return False
        if index in self._stepped:
            self._stepped.clear()
            self._on_step()
        self._stepped.add(index)
        if len(self._stepped) == len(self._optimizers):
            self._stepped.clear()
            self._on_step()
        return True


def was_skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Say whether a step on the CPU left everything as it was, because GradScaler found infinite gradients.

    Most optimisers are not even called then; fused ones are, and find out by themselves. On an accelerator that is
    not to be known without waiting for it, so there the attempt counts.
    """
    found = getattr(optimizer, "found_inf", None)
    return found is not None and found.device.type == "cpu" and bool(found)


def _makes_states() -> bool:
    """Say whether this step is only how torch.distributed.checkpoint gives an optimiser its states.

    It takes one whenever it finds neither states nor gradients: with SGD, at every save.
    """
    checkpoint = sys.modules.get("torch.distributed.checkpoint.state_dict")
    if checkpoint is None:
        return False
    code = getattr(getattr(checkpoint, "_init_optim_state", None), "__code__", None)
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code is code:
            return True
    return False


def steps_done(optimizers: Sequence[torch.optim.Optimizer]) -> int | None:
    """Return how many steps the optimisers' states have seen, None where they do not count them.

    The most of any: parameters that were frozen at first, or an optimiser that steps rarely, have seen fewer.
    """
    states = (state for optimizer in optimizers for state in optimizer.state.values())
    return max((int(state["step"]) for state in states if isinstance(state, dict) and "step" in state), default=None)


def have_stepped(optimizers: Sequence[torch.optim.Optimizer]) -> bool:
    """Say whether any has a state, whatever is in it."""
    return any(any(optimizer.state.values()) for optimizer in optimizers)


def marked(model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> list[torch.nn.Parameter]:
    """Return three parameters at most, of which a mark is made: whoever loads weights loads all."""
    groups = [group["params"] for optimizer in optimizers[:1] for group in optimizer.param_groups]
    known = [*groups[0][:1], *groups[-1][-1:]] if groups else []
    return [each for each in (first_parameter(model), *known) if each is not None]


def mark(parameters: Iterable[torch.nn.Parameter]) -> tuple[int, ...]:
    """Return what changes when an optimiser, or whoever loads a checkpoint, writes to the weights.

    What is written through `.data` leaves no mark.
    """
    return tuple(number for each in parameters for number in (id(each), each._version))


def learning_rate(optimizers: Sequence[torch.optim.Optimizer]) -> object:
    """Return the rate of the first group of the first optimiser; None without one."""
    groups = optimizers[0].param_groups if optimizers else []
    return groups[0].get("lr") if groups else None
