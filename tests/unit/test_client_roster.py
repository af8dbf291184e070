"""A model's roster notices every change of its parameters, and keeps none of them alive."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from client_loops import network
from topowatch_client.roster import Roster, first_parameter
from topowatch_client.shards import Shards

if TYPE_CHECKING:
    from collections.abc import Callable


def _add(model: nn.Sequential) -> None:
    model.append(nn.Linear(3, 2))


def _add_within(model: nn.Sequential) -> None:
    model[1].register_parameter("slope", nn.Parameter(torch.zeros(())))


def _remove(model: nn.Sequential) -> None:
    del model[2]


def _replace(model: nn.Sequential) -> None:
    model[0].weight = nn.Parameter(torch.zeros(8, 6))


def _tie(model: nn.Sequential) -> None:
    model[2].bias = nn.Parameter(model[0].bias[:3])


def _rename(model: nn.Sequential) -> None:
    model.last = model._modules.pop("2")


def _rename_parameter(model: nn.Sequential) -> None:
    model[2].shift = model[2]._parameters.pop("bias")


def _swap(model: nn.Sequential) -> None:
    model[0], model[2] = model[2], model[0]


def _move_to_an_empty_place(model: nn.Sequential) -> None:
    model[1].spare, model[1].own = model[1].own, None


def _move_a_module_to_an_empty_place(model: nn.Sequential) -> None:
    model[1].student, model[1].teacher = model[1].teacher, None


CHANGES = [
    _add,
    _add_within,
    _remove,
    _replace,
    _tie,
    _rename,
    _rename_parameter,
    _swap,
    _move_to_an_empty_place,
    _move_a_module_to_an_empty_place,
]


def _roomy() -> nn.Sequential:
    """A network with places that are empty, and filled ones beside them."""
    model = network()
    model[1].register_parameter("own", nn.Parameter(torch.ones(2)))
    model[1].register_parameter("spare", None)
    model[1].add_module("teacher", nn.Linear(2, 2))
    model[1].add_module("student", None)
    return model


def _names(shards: Shards) -> list[str]:
    return [held.name for held in shards.held()]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed_and_what_is_held_follows(change: Callable[[nn.Sequential], None]) -> None:
    model = _roomy()
    roster, shards = Roster(model), Shards(model, 0)
    assert roster.still_holds(model)
    change(model)
    assert not roster.still_holds(model)
    held = shards.held()
    expected = list(model.named_parameters())
    assert [each.name for each in held] == [name for name, _ in expected]
    assert all(each.values is parameter for each, (_, parameter) in zip(held, expected, strict=True))
    assert shards.parameter_count == sum(parameter.numel() for parameter in model.parameters())


def test_what_changes_within_parameters_is_no_other_model() -> None:
    """Their numbers, types, gradients and whether they are frozen are read anew each time."""
    model = network()
    roster, shards = Roster(model), Shards(model, 0)
    model.double()
    model[0].weight.requires_grad_(False)
    model(torch.zeros(1, 6, dtype=torch.float64)).sum().backward()
    assert roster.still_holds(model)
    first, second, *_ = shards.held()
    assert first.values.dtype == torch.float64
    assert (first.frozen, first.gradient) == (True, None)
    assert not second.frozen
    assert second.gradient is model[0].bias.grad


def test_shared_modules_and_parameters_are_listed_once() -> None:
    model = network()
    model.append(model[0])
    model[2].weight = model[0].weight
    shards = Shards(model, 0)
    assert _names(shards) == _names(shards) == ["0.weight", "0.bias", "2.bias"]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_compiled_modules_have_rosters_too() -> None:
    model = nn.Sequential(torch.jit.script(network()), nn.Linear(3, 2))
    roster, shards = Roster(model), Shards(model, 0)
    assert roster.still_holds(model)
    assert _names(shards) == _names(shards) == [name for name, _ in model.named_parameters()]


def test_modules_that_hold_each_other_are_listed_once() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(3, 2))
    model[0].owner = model
    assert Roster(model).still_holds(model)
    assert first_parameter(model) is model[1].weight
    assert first_parameter(model[1]) is model[1].weight
    assert first_parameter(nn.ReLU()) is None


def test_a_parameter_that_the_model_has_lost_is_freed() -> None:
    model = network()
    shards = Shards(model, 0)
    shards.held()
    lost = weakref.ref(model[0].weight)
    model[0].weight = nn.Parameter(torch.zeros(8, 6))
    gc.collect()
    assert lost() is None
    assert _names(shards)[0] == "0.weight"
