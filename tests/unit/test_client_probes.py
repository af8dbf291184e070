"""A probe pass sees what the model computes and leaves no trace of itself."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from client_loops import on_host
from topowatch_client.probes import Probe, ProbeError, ProbeSettings
from topowatch_client.sketch import FoldSketch


class Restless(nn.Module):
    """Draws from every random source and changes a buffer whenever it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 4))
        self.register_buffer("calls", torch.zeros(1))
        self.inner[2].eval()  # a part that is not in the mode of the whole

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        random.random()
        np.random.rand()  # noqa: NPY002 -- the legacy global state is what has to survive
        return self.inner(inputs + 0 * torch.rand(1))


class Languages(nn.Module):
    """Tokens in, logits of the next token out, in an object as language models return it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 80)
        self.head = nn.Linear(80, 11)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(self.embedding(input_ids) * attention_mask.unsqueeze(-1)))


def make(model: nn.Module, inputs: Any, targets: Any = None, **changes: Any) -> Probe:
    return Probe(model, ProbeSettings(inputs, targets, **changes), FoldSketch())


def test_leaves_no_trace() -> None:
    torch.manual_seed(0)
    model = Restless().train()
    modes = [module.training for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    probe = make(model, torch.randn(300, 6, generator=torch.Generator().manual_seed(1)), torch.zeros(300).long())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = on_host(probe.run(frames=True))
        assert torch.is_autocast_enabled("cpu")
        assert model.inner[3](torch.ones(1, 16)).dtype == torch.bfloat16
    assert torch.is_grad_enabled()
    assert result.losses is not None
    assert [module.training for module in model.modules()] == modes
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # noqa: NPY002
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_leaves_no_trace_when_the_model_fails() -> None:
    model = Restless().train()
    modes = [module.training for module in model.modules()]
    inputs = torch.randn(5, 6)
    state = torch.get_rng_state()

    def fail(_model: nn.Module, _inputs: torch.Tensor) -> None:
        torch.rand(3)
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        make(model, inputs, forward=fail).run(frames=True)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.inner[3]._forward_pre_hooks


def test_predictions_are_the_sketched_hellinger_embedding() -> None:
    """Distances between sketches are Hellinger distances between predictions, up to the sketch's own error."""
    inputs = torch.randn(256, 6)
    models = [nn.Linear(6, 4), nn.Linear(6, 4)]
    sketches = [torch.from_numpy(on_host(make(model, inputs).run()).sketch) for model in models]
    chances = [model(inputs).softmax(1).detach() for model in models]
    true = (chances[0].sqrt() - chances[1].sqrt()).norm() / 16
    assert float((sketches[0] - sketches[1]).norm()) == pytest.approx(float(true), rel=0.1)
    assert float(sketches[0].norm()) == pytest.approx(1.0, rel=0.1)


def test_losses_argmax_and_confidence_are_exact_and_in_order() -> None:
    model = nn.Linear(6, 4)
    inputs, targets = torch.randn(150, 6), torch.randint(4, (150,))
    result = on_host(make(model, inputs, targets, loss=nn.CrossEntropyLoss(reduction="none")).run())
    outputs = model(inputs).detach()
    np.testing.assert_allclose(
        result.losses, nn.functional.cross_entropy(outputs, targets, reduction="none").numpy(), atol=1e-6
    )
    best = outputs.softmax(1).max(1)
    assert result.argmax.tolist() == best.indices.tolist()
    assert result.argmax.dtype == np.uint32
    np.testing.assert_allclose(result.confidence, best.values.numpy(), atol=1e-3)
    assert result.mean_loss == pytest.approx(float(nn.functional.cross_entropy(outputs, targets)), abs=1e-5)


def test_a_scalar_loss_gives_a_mean_and_no_losses_a_probe() -> None:
    model = nn.Linear(6, 4)
    inputs, targets = torch.randn(100, 6), torch.randint(4, (100,))
    result = on_host(make(model, inputs, targets, loss=nn.functional.cross_entropy).run())
    assert result.losses is None
    expected = nn.functional.cross_entropy(model(inputs), targets).item()
    assert result.mean_loss == pytest.approx(expected, abs=1e-5)


def test_without_targets_there_are_predictions_and_no_losses() -> None:
    result = on_host(make(nn.Linear(6, 4), torch.randn(10, 6)).run())
    assert (result.losses, result.mean_loss) == (None, None)
    assert len(result.argmax) == 10


def test_language_models_are_seen_at_a_bounded_number_of_positions() -> None:
    """130 sequences of 7 tokens have 910 positions; all 7 of 36 sequences are looked at, given as a mapping."""
    model = Languages()
    inputs = {"input_ids": torch.randint(11, (130, 7)), "attention_mask": torch.ones(130, 7)}
    probe = make(model, inputs, torch.randint(11, (130, 7)))
    result = on_host(probe.run(frames=True))
    assert probe.facts is not None
    assert (probe.facts.positions, probe.facts.outputs) == (252, 11)
    assert result.losses is not None
    assert result.frames is not None
    assert len(result.losses) == len(result.argmax) == len(result.confidence) == 252
    assert result.frames.shape == (252, 64)
    chosen = np.arange(36) * 130 // 36
    expected = model(**inputs).logits[chosen].argmax(2).flatten()
    assert result.argmax.tolist() == expected.tolist()


def test_more_examples_than_positions_are_thinned_evenly() -> None:
    model = nn.Linear(1, 2)
    probe = make(model, torch.arange(1000.0).unsqueeze(1), positions=10)
    assert probe._inputs.flatten().tolist() == list(range(0, 1000, 100))


def test_regression_is_standardised_by_its_targets() -> None:
    """A model that predicts perfectly looks the same whatever the unit of its targets."""
    inputs = torch.randn(64, 3)
    sketches = []
    for unit in (1.0, 1000.0):
        probe = make(nn.Identity(), inputs * unit, inputs * unit, output="values")
        result = on_host(probe.run())
        assert result.argmax.size == result.confidence.size == 0
        assert result.mean_loss == pytest.approx(0.0)
        sketches.append(result.sketch)
    np.testing.assert_allclose(sketches[0], sketches[1], atol=1e-5)
    assert np.linalg.norm(sketches[0]) == pytest.approx(1.0, rel=0.15)


def test_sequences_of_values_are_seen_at_the_same_positions_as_their_targets() -> None:
    """Regression over time: standardised by the targets of the positions that are looked at, losses of these."""
    inputs = torch.randn(8, 30, 3)
    targets = inputs * 2 + 1
    result = on_host(make(nn.Identity(), inputs, targets, output="values", positions=64).run())
    sequences, offsets = np.arange(4) * 2, (2 * np.arange(16) + 1) * 30 // 32
    rows, scale = (whole[sequences[:, None], offsets[None]].reshape(-1, 3) for whole in (inputs, targets))
    point = (rows - scale.mean(0)) / scale.std(0, unbiased=False) / 3**0.5 / 64**0.5
    np.testing.assert_allclose(result.sketch, FoldSketch().slice("topowatch/predictions", point), atol=1e-5)
    np.testing.assert_allclose(result.losses, (rows - scale).square().mean(1), rtol=1e-5)


def test_one_logit_and_integer_targets_are_cross_entropy_of_yes_or_no() -> None:
    outputs, targets = torch.randn(9, 1), torch.randint(2, (9,))
    result = on_host(make(nn.Identity(), outputs, targets).run())
    expected = -torch.where(targets == 1, outputs[:, 0].sigmoid(), 1 - outputs[:, 0].sigmoid()).log()
    np.testing.assert_allclose(result.losses, expected, rtol=1e-5)


def test_classes_that_are_ignored_are_not_looked_at() -> None:
    targets = torch.tensor([0, -100, 1, -100, 2])
    result = on_host(make(nn.Identity(), torch.eye(5), targets).run())
    assert result.argmax.tolist() == [0, 2, 4]
    assert result.losses is not None
    assert len(result.losses) == 3


def test_a_loss_with_more_than_one_number_an_example_is_averaged() -> None:
    outputs, targets = torch.randn(70, 3), torch.rand(70, 3)
    result = on_host(make(nn.Identity(), outputs, targets, loss=nn.BCEWithLogitsLoss(reduction="none")).run())
    expected = nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(1)
    np.testing.assert_allclose(result.losses, expected, rtol=1e-5)


def test_activations_ride_on_the_pass() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).train()
    inputs = torch.randn(50, 6)
    layers = on_host(make(model, inputs).run()).layers
    assert list(layers) == ["0", "1", "2"]
    hidden = model[1](model[0](inputs)).detach()
    assert layers["1"].activation_mean == pytest.approx(float(hidden.mean()), rel=1e-4)
    assert layers["1"].zero_fraction == pytest.approx(float((hidden == 0).float().mean()), rel=1e-4)


@pytest.mark.parametrize("output", ["logits", "probs"])
def test_one_output_a_position_means_yes_or_no(output: str) -> None:
    outputs = torch.tensor([0.9, 0.2]) if output == "probs" else torch.tensor([2.0, -1.0])
    result = on_host(make(nn.Identity(), outputs, output=output).run())
    assert result.argmax.tolist() == [1, 0]
    assert (result.confidence > 0.5).all()


def test_inputs_may_be_a_tuple_and_forward_may_be_given() -> None:
    bilinear = nn.Bilinear(3, 5, 4)
    inputs = (torch.randn(9, 3), torch.randn(9, 5))
    straight = on_host(make(bilinear, inputs).run())
    given = on_host(make(bilinear, inputs, forward=lambda model, parts: model(*parts)).run())
    np.testing.assert_array_equal(straight.sketch, given.sketch)


def test_frames_are_the_input_of_the_last_linear_or_the_output_of_a_named_layer() -> None:
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4))
    inputs = torch.randn(100, 6)
    last, named = make(model, inputs), make(model, inputs, layer="1")
    features = model[1](model[0](inputs)).detach().numpy()
    for probe, name in ((last, "2:input"), (named, "1")):
        result = on_host(probe.run(frames=True))
        assert result.layer == name
        assert result.frames is not None
        np.testing.assert_allclose(result.frames, features, atol=2e-3)
    assert on_host(last.run()).frames is None


class Wordy(nn.Module):
    """Returns features among other things."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.unused = nn.Linear(6, 5), nn.Linear(6, 5)

    def forward(self, inputs: torch.Tensor) -> dict[str, Any]:
        return {"note": "text", "features": self.inner(inputs)}


def test_frames_are_found_in_tuples_and_mappings() -> None:
    model = Wordy()
    inputs = torch.randn(20, 6)
    body = nn.Sequential(model)
    probe = make(body, inputs, layer="0", forward=lambda model, inputs: model(inputs)["features"])
    result = on_host(probe.run(frames=True))
    assert result.frames is not None
    np.testing.assert_allclose(result.frames, model.inner(inputs).detach(), atol=2e-3)
    assert probe.warning is None


@pytest.mark.parametrize(
    ("model", "layer", "complaint"),
    [
        (Wordy(), "unused", "layer 'unused' gives no frames: it ran 0 times in a forward pass"),
        (Wordy(), None, "layer 'unused:input' gives no frames: it ran 0 times in a forward pass"),
        (nn.Identity(), None, "layer '' gives no frames: the model has no Linear whose input could be watched"),
    ],
)
def test_a_layer_without_frames_is_said(model: nn.Module, layer: str | None, complaint: str) -> None:
    def forward(model: nn.Module, inputs: torch.Tensor) -> Any:
        return model.inner(inputs) if isinstance(model, Wordy) else inputs

    probe = make(model, torch.randn(20, 6), layer=layer, forward=forward)
    result = on_host(probe.run(frames=True))
    assert (result.layer, result.frames, probe.warning) == ("", None, complaint)


def test_wide_features_are_projected_the_same_in_every_run() -> None:
    model = nn.Sequential(nn.Linear(6, 500), nn.Linear(500, 4))
    inputs = torch.randn(100, 6)
    first, second = (on_host(make(model, inputs).run(frames=True)).frames for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.shape == (100, 64)
    assert first.dtype == np.float16
    np.testing.assert_array_equal(first, second)
    true = model[0](inputs).detach().norm()
    assert float(np.linalg.norm(first.astype(np.float64))) == pytest.approx(float(true), rel=0.2)


def test_equal_inputs_have_equal_digests() -> None:
    inputs = torch.randn(8, 6)
    digests = []
    for given in (inputs, inputs.clone(), inputs + 1, inputs.double()):
        probe = make(nn.Linear(6, 4, dtype=given.dtype), given)
        probe.run()
        assert probe.facts is not None
        digests.append(probe.facts.digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert len(digests[0]) == 32


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"inputs": torch.ones(2, 6), "output": "tokens"}, "output must be one of"),
        ({"inputs": torch.ones(2, 6), "layer": "nowhere"}, "no module named 'nowhere'"),
        ({"inputs": "text"}, "probe inputs must be"),
        ({"inputs": (torch.ones(2, 6), torch.ones(3, 6))}, "probe inputs must be"),
        ({"inputs": torch.ones(0, 6)}, "probe inputs must be"),
    ],
)
def test_a_probe_set_that_cannot_be_used_is_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ProbeError, match=complaint):
        Probe(nn.Linear(6, 4), ProbeSettings(**settings), FoldSketch())


@pytest.mark.parametrize(
    ("model", "settings", "complaint"),
    [
        (nn.Identity(), {"inputs": torch.randn(4, 3), "output": "probs"}, "no probabilities"),
        (nn.Identity(), {"inputs": torch.ones(4, 3, 5, 5), "targets": torch.ones(4, 5, 5).long()}, r"movedim\(1, -1\)"),
        (nn.Identity(), {"inputs": torch.ones(4, 3), "targets": torch.full((4,), 3)}, "targets from 3 to 3 do not fit"),
        (nn.Linear(3, 3, device="meta"), {"inputs": torch.ones(4, 3, device="meta")}, "meta device"),
        (nn.LazyLinear(3), {"inputs": torch.ones(4, 3)}, "only its first forward pass makes"),
    ],
)
def test_models_and_outputs_that_cannot_be_seen_are_refused_in_words(
    model: nn.Module, settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ProbeError, match=complaint):
        Probe(model, ProbeSettings(**settings), FoldSketch()).run()


def test_outputs_that_are_no_tensor_are_refused() -> None:
    with pytest.raises(ProbeError, match="see `forward`"):
        make(nn.Linear(6, 4), torch.ones(2, 6), forward=lambda *_: "text").run()
