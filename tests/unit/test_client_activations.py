"""Statistics of activations are exact, and hooks that do not run are noticed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch._dynamo.utils import counters

from topowatch_client.activations import Activations, moments, statistics
from topowatch_client.messages import LayerStatistics, ProbeResult, SampleParts, encode_sample
from topowatch_protos.v1 import sample_pb2


def test_moments_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    samples = [rng.normal(3, 2, 500), rng.exponential(size=70), np.maximum(rng.normal(size=900), 0), np.zeros(5)]
    table = moments([torch.from_numpy(sample).float() for sample in samples], [(math.nan, math.nan)] * 4).numpy()
    for sample, (mean, deviation, kurtosis, zeros, saturated) in zip(samples[:3], table[:3], strict=True):
        assert np.isnan(saturated)
        assert mean == pytest.approx(sample.mean(), rel=1e-4)
        assert deviation == pytest.approx(sample.std(), rel=1e-4)
        assert kurtosis == pytest.approx(stats.kurtosis(sample, fisher=False), rel=1e-3)
        assert zeros == pytest.approx((sample == 0).mean())
    assert table[3, :4].tolist() == [0, 0, 0, 1]
    assert moments([], []).shape == (0, 5)


@pytest.mark.parametrize(
    ("module", "low", "high", "scale"),
    [(nn.Tanh(), -1, 1, 4), (nn.Sigmoid(), 0, 1, 4), (nn.Hardtanh(-3, 2), -3, 2, 4), (nn.Softsign(), -1, 1, 100)],
)
def test_saturation_is_the_share_of_outputs_at_the_bounds(
    module: nn.Module, low: float, high: float, scale: float
) -> None:
    inputs = torch.randn(40, 50, generator=torch.Generator().manual_seed(0)) * scale
    activations = Activations(nn.Sequential(module, nn.Linear(50, 2)))
    activations.arm()
    with torch.no_grad():
        activations._model(inputs)
        outputs = module(inputs).double()
    values, names = activations.take()
    near = torch.minimum(outputs - low, high - outputs) < 0.01 * (high - low)
    assert 0.01 < near.double().mean() < 0.9
    found = statistics(values.numpy(), names)
    assert found["0"].saturated_fraction == pytest.approx(float(near.double().mean()), abs=1e-3)
    assert np.isnan(found["1"].saturated_fraction)


def test_rectifiers_and_what_the_model_returns_do_not_count_as_saturated() -> None:
    activations = Activations(nn.Sequential(nn.ReLU6(), nn.RNN(4, 4, nonlinearity="relu"), nn.Sigmoid()))
    activations.arm()
    with torch.no_grad():
        for module in activations._model:
            module(torch.full((3, 4), 100.0))
    assert torch.isnan(activations.take()[0][:, 4]).all()


def test_modules_that_compute_are_watched_by_name() -> None:
    torch.manual_seed(0)  # without a seed, no unit of the few behind the ReLU is on now and then
    model = nn.Sequential(
        nn.Embedding(10, 6),
        nn.MultiheadAttention(6, 2, batch_first=True),
        nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)),
        nn.Sequential(nn.ReLU(), nn.Dropout(0.5)),
    )

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        hidden = model[0](tokens)
        return model[3](model[2](model[1](hidden, hidden, hidden)[0]))

    activations = Activations(model)
    assert activations.arm()
    with torch.no_grad():
        result = forward(torch.randint(10, (3, 5)))
    values, names = activations.take()
    assert names == ["0", "1", "2", "3.0"]
    assert values.shape == (4, 6)
    assert activations.coverage == 1.0
    assert not any(module._forward_hooks for module in model.modules())
    layers = statistics(values.numpy(), names)
    before = layers["3.0"]
    assert before.activation_mean > 0
    assert before.zero_fraction > 0
    assert np.isnan(before.weight_norm)
    assert result.shape == (3, 5, 4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_large_outputs_are_sampled_evenly(layout: torch.memory_format) -> None:
    """Each column has a mean of its own: a stride that meets one column alone would not see the others."""
    columns = torch.arange(64.0).view(1, 64, 1, 1)
    outputs = (columns + torch.randn(16, 64, 32, 32, generator=torch.Generator().manual_seed(0))).contiguous(
        memory_format=layout
    )
    activations = Activations(nn.Sequential(nn.ReLU()))
    activations.arm()
    with torch.no_grad():
        activations._model(outputs)
    values, _ = activations.take()
    positive = outputs.relu()
    assert float(values[0, 0]) == pytest.approx(float(positive.mean()), rel=0.02)
    assert float(values[0, 1]) == pytest.approx(float(positive.std()), rel=0.02)


def test_many_modules_are_thinned_to_sixty_four() -> None:
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(200)])
    activations = Activations(model)
    activations.arm()
    with torch.no_grad():
        model(torch.ones(1, 2))
    values, names = activations.take()
    assert values.shape == (64, 6)
    assert names == [str(index * 200 // 64) for index in range(64)]


def test_a_step_of_training_is_seen_and_an_evaluation_before_it_is_not() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    activations = Activations(model)
    activations.arm(training=True)
    with torch.no_grad():
        model(torch.full((1, 2), 1e6))
    model(torch.ones(4, 2)).sum().backward()
    model(torch.full((1, 2), 1e6))  # the next micro-batch: the first is seen
    values, _ = activations.take()
    assert float(values[0, 0]) == pytest.approx(float(model(torch.ones(4, 2)).detach().mean()), abs=1e-5)
    assert activations.seconds > 0


def test_modules_that_do_not_run_are_reported() -> None:
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    activations = Activations(model)
    activations.arm()
    with torch.no_grad():
        model["used"](torch.ones(1, 2))
    _, names = activations.take()
    assert names == ["used"]
    assert activations.coverage == 0.5
    assert activations.problem == "1 modules did not run, such as 'unused'"


class Odd(nn.Module):
    """Returns whatever it is told to."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result

    def forward(self) -> Any:
        return self.result


@pytest.mark.parametrize(
    "result",
    [None, "text", (), torch.ones(2).long(), torch.empty(0), torch.ones(2, device="meta"), torch.eye(2).to_sparse()],
    ids=["none", "text", "nothing", "integers", "empty", "meta", "sparse"],
)
def test_odd_outputs_do_not_disturb(result: Any) -> None:
    model = Odd(result)
    activations = Activations(model)
    activations.arm()
    with torch.no_grad():
        assert model() is result
    values, names = activations.take()
    assert values.isfinite().all()
    assert len(names) == len(values) <= 1


def test_outputs_of_a_vectorised_step_do_not_escape() -> None:
    """Of torch.func, whose tensors mean nothing outside of it."""
    model = nn.Linear(2, 2)
    activations = Activations(model)
    activations.arm(training=True)
    torch.func.vmap(model)(torch.ones(3, 2))
    values, names = activations.take()
    assert (len(values), names) == (0, [])
    assert activations.problem is not None


def test_compiled_training_is_left_alone_and_said_to_be() -> None:
    """Hooks put on after compilation do not run, and what is compiled under them would be compiled again."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    activations = Activations(model)
    assert activations.arm(training=True)
    activations.disarm()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for size in (2, 3):
        compiled(torch.ones(size, 2)).sum().backward()
    graphs = counters["stats"]["unique_graphs"]
    assert not activations.arm(training=True)
    compiled(torch.ones(4, 2)).sum().backward()
    assert (activations.coverage, activations.take()[1]) == (0.0, [])
    assert activations.problem == "torch.compile is in use, which leaves out hooks"
    assert activations.arm()  # on a pass of our own, which runs eagerly
    compiled(torch.ones(4, 2)).sum().backward()
    activations.take()
    assert activations.coverage == 0.0
    assert counters["stats"]["unique_graphs"] == graphs


def test_a_step_that_compiles_under_the_hooks_goes_on_as_if_there_were_none() -> None:
    """The job compiles for the first time in the very step that is watched."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    activations = Activations(model)
    activations.arm(training=True)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    inputs = torch.ones(2, 2)
    torch.testing.assert_close(compiled(inputs), model(inputs))
    activations.disarm()
    torch.testing.assert_close(compiled(inputs), model(inputs))
    assert not counters["graph_break"]


class Raw(nn.Module):
    """Computes with parameters of its own; what it is made of computes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))
        self.dropout = nn.Dropout(0.0)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.dropout(inputs @ self.weight)


def test_of_a_model_without_leaves_that_compute_nothing_is_seen_and_nothing_missed() -> None:
    activations = Activations(nn.Sequential(Raw(), nn.Sequential(Raw())))
    assert activations.arm()
    with torch.no_grad():
        activations._model(torch.ones(3, 2))
    values, names = activations.take()
    assert (values.shape, names) == ((0, 6), [])
    assert (activations.coverage, activations.problem) == (1.0, None)


def test_layers_travel_with_what_either_side_knows_of_them() -> None:
    seen = {"a": LayerStatistics(activation_mean=1.5, zero_fraction=0.25), "b": LayerStatistics(activation_mean=2.0)}
    probe = ProbeResult(np.zeros(3, np.float32), np.zeros(0), np.zeros(0), layers=seen)
    known = {"a": LayerStatistics(weight_norm=3.0), "c\n": LayerStatistics(update_norm=4.0)}
    item = sample_pb2.Item.FromString(encode_sample(SampleParts(step=1, layers=known, probe=probe)))
    layers = {layer.name: layer for layer in item.sample.layers}
    assert list(layers) == ["a", "c-", "b"]
    assert (layers["a"].weight_norm, layers["a"].activation_mean, layers["a"].zero_fraction) == (3.0, 1.5, 0.25)
    assert np.isnan(layers["a"].update_norm)
    assert layers["c-"].update_norm == 4.0
