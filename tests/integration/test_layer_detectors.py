"""Detectors on real trainings through the real client: silent on healthy ones, and right about planted failures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from watched_runs import Training, cnn, judged, mlp, train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from watched_runs import Watched

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread_and_no_launcher")]  # twenty trainings


@pytest.fixture
def watched(tmp_path: Path) -> Callable[..., Watched]:
    def run(model: nn.Module, optimizer: torch.optim.Optimizer, **changes: Any) -> Watched:
        return judged(train(Training(model, optimizer, **changes), tmp_path / "spool"))

    return run


def adam(model: nn.Module, **changes: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), **{"lr": 1e-3, **changes})


def momentum(model: nn.Module, **changes: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), **{"lr": 0.03, "momentum": 0.9, **changes})


def warm_up(step: int) -> float:
    return min(1.0, (step + 1) / 200)


def cosine(step: int) -> float:
    return (1 + math.cos(math.pi * step / 800)) / 2


def restarts(step: int) -> float:
    return 0.01 + 0.99 * (1 + math.cos(math.pi * (step % 200) / 200)) / 2


@pytest.mark.parametrize(
    ("build", "optimiser", "rate"),
    [
        (mlp, adam, warm_up),
        (mlp, momentum, restarts),
        (lambda: mlp(nn.Tanh, 3), momentum, cosine),
        (lambda: mlp(nn.GELU, 4), adam, restarts),
        (lambda: cnn(norm=True), adam, cosine),
        (cnn, momentum, warm_up),
    ],
    ids=["mlp-adam-warm-up", "mlp-sgd-restarts", "tanh-sgd-cosine", "gelu-adam-restarts", "cnn-adam-cosine", "cnn-sgd"],
)
def test_healthy_trainings_raise_no_flag(watched, build, optimiser, rate) -> None:
    model = build()
    found = watched(model, optimiser(model), rate=rate, steps=600)
    assert found.changes == []
    assert found.state.history["loss"].values[-50:].mean() < 0.3
    layers = found.state.history.layers
    assert len(layers) == 64
    for field in ("weight_norm", "update_norm", "gradient_norm", "activation_deviation", "zero_fraction"):
        assert len(layers.measured(field)[0]) >= 60
    assert len(found.state.history["representation_rank"]) >= 8


def at(step: int, act: Callable[[], object]) -> Callable[[int], object]:
    return lambda now: act() if now == step else None


def since(step: int, act: Callable[[], object]) -> Callable[[int], object]:
    return lambda now: act() if now >= step else None


def scaled(layer: nn.Linear, factor: float, rows: int | None = None) -> Callable[[], object]:
    def act() -> None:
        with torch.no_grad():
            layer.weight[:rows].mul_(factor)

    return act


def filled(parameter: torch.Tensor, value: float) -> Callable[[], object]:
    def act() -> None:
        with torch.no_grad():
            parameter.fill_(value)

    return act


def flattened(layer: nn.Linear) -> Callable[[], object]:
    """Bring all rows of the weights to one direction."""

    def act() -> None:
        with torch.no_grad():
            layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))
            layer.bias.zero_()

    return act


def test_a_deep_sigmoid_network_has_a_vanishing_gradient(watched) -> None:
    model = mlp(nn.Sigmoid, depth=12)
    found = watched(model, adam(model), steps=200)
    assert found.raised()["vanishing_gradient"] <= 32
    assert "layer '1'" in next(reason for _, name, reason in found.changes if name == "vanishing_gradient")


def test_a_rectifier_that_dies_is_named(watched) -> None:
    model = mlp(depth=3)
    found = watched(model, momentum(model), before=at(200, filled(model[3].bias, -1e3)), steps=400)
    assert 200 <= found.raised()["dead_relu"] <= 232
    assert "layer '4'" in next(reason for _, name, reason in found.changes if name == "dead_relu")


def test_a_saturated_activation_is_named(watched) -> None:
    model = mlp(nn.Tanh, depth=3)
    found = watched(model, momentum(model), before=at(200, scaled(model[3], 1e3)), steps=400)
    assert 200 <= found.raised()["saturated_activation"] <= 232
    assert "layer '4'" in next(reason for _, name, reason in found.changes if name == "saturated_activation")


@pytest.mark.parametrize("factor", [0.02, 20.0])
def test_a_start_with_weights_of_the_wrong_size_is_poor(watched, factor) -> None:
    model = mlp(depth=4)
    for layer in model:
        if isinstance(layer, nn.Linear):
            scaled(layer, factor)()
            filled(layer.bias, 0.0)()
    assert watched(model, momentum(model), steps=100).raised()["poor_initialisation"] <= 16


def test_a_layer_that_the_optimiser_was_not_given_is_unchanged(watched) -> None:
    model = mlp(depth=3)
    known = [each for name, each in model.named_parameters() if not name.startswith("3.")]
    found = watched(model, torch.optim.Adam(known, 1e-3), steps=200)
    assert {name for _, name, _ in found.changes} == {"unchanged_tensor"}
    assert "layer '3'" in found.changes[0][2]


def test_a_layer_whose_weights_are_masked_away_is_all_zero(watched) -> None:
    model = mlp(depth=3)

    def mask(_optimizer: object, *_: object) -> None:
        if step[0] > 200:
            filled(model[3].weight, 0.0)()
            filled(model[3].bias, 0.0)()

    step = [0]
    optimizer = adam(model)
    optimizer.register_step_post_hook(mask)
    found = watched(model, optimizer, before=lambda now: step.__setitem__(0, now), steps=400)
    assert 200 <= found.raised()["all_zero"] <= 240


def test_a_layer_whose_learning_rate_is_next_to_nothing_stands_out(watched) -> None:
    model = mlp(depth=3)
    others = [each for name, each in model.named_parameters() if not name.startswith("3.")]
    groups = [{"params": others}, {"params": list(model[3].parameters()), "lr": 1e-5}]
    found = watched(model, torch.optim.SGD(groups, lr=0.02), steps=200)
    assert [name for _, name, _ in found.changes] == ["weight_update_ratio"]
    assert "layer '3'" in found.changes[0][2]


def test_a_layer_that_something_initialises_anew_at_every_step_is_turned_over(watched) -> None:
    model = mlp(depth=3)
    found = watched(model, momentum(model), before=since(200, model[3].reset_parameters), steps=400)
    assert 200 <= found.raised()["weight_update_ratio"] <= 248


def test_outputs_that_blow_up_are_named(watched) -> None:
    model = mlp(depth=3)
    found = watched(model, adam(model), before=at(300, scaled(model[3], 1e5)), steps=400)
    assert 300 <= found.raised()["exploding_tensor"] <= 332


def test_a_unit_that_outgrows_the_others_shows_in_kurtosis(watched) -> None:
    model = mlp(width=256)
    found = watched(model, adam(model), before=at(300, scaled(model[3], 1e3, rows=1)), steps=400)
    assert 300 <= found.raised()["activation_kurtosis"] <= 332
    assert "layer '3'" in next(reason for _, name, reason in found.changes if name == "activation_kurtosis")


def test_a_network_that_learns_forty_digits_by_heart_is_overfit_and_overtrained(watched) -> None:
    model = mlp(width=256)
    found = watched(model, adam(model, lr=3e-3), share=0.045, steps=1500)
    assert found.raised()["overfit"] < 800
    assert found.raised()["overtraining"] > 1000
    assert not found.state.view()["minimum_unstable"]


def test_gradients_that_grow_fifty_times_over_are_out_of_the_ordinary(watched) -> None:
    """Adam does not care about their scale, so that nothing else shows."""
    model, factor = mlp(), [1.0]
    for each in model.parameters():
        each.register_hook(lambda gradient: gradient * factor[0])
    found = watched(model, adam(model), before=at(300, lambda: factor.__setitem__(0, 50.0)), steps=400)
    assert 300 <= found.raised()["gradient_norm"] <= 320


def test_a_representation_that_falls_into_one_direction_has_collapsed(watched) -> None:
    model = mlp(depth=3)
    found = watched(model, adam(model), before=since(300, flattened(model[5])), steps=500)
    assert 300 <= found.raised()["rank_collapse"] <= 400
