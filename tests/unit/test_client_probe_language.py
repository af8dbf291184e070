"""Language models are seen at chosen positions; their logits are never made all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from client_loops import on_host
from tiny_gpt import Output, TinyGPT
from topowatch_client import probe_plan
from topowatch_client.probe_set import IGNORED
from topowatch_client.probes import Probe, ProbeError, ProbeSettings
from topowatch_client.sketch import FoldSketch

if TYPE_CHECKING:
    from collections.abc import Callable

VOCABULARY, LENGTH, SEQUENCES = 97, 40, 12


@pytest.fixture(autouse=True)
def budget(monkeypatch: pytest.MonkeyPatch) -> int:
    """Less than the logits of one sequence, so that small models are in the place of large ones."""
    small = VOCABULARY * LENGTH // 2
    monkeypatch.setattr(probe_plan, "BUDGET", small)
    return small


@pytest.fixture
def model() -> TinyGPT:
    torch.manual_seed(0)
    return TinyGPT(VOCABULARY, LENGTH)


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    text = torch.randint(VOCABULARY, (SEQUENCES, LENGTH + 1), generator=torch.Generator().manual_seed(1))
    return text[:, :-1], text[:, 1:]


def make(model: nn.Module, inputs: Any, targets: Any = None, **changes: Any) -> Probe:
    return Probe(model, ProbeSettings(inputs, targets, **changes), FoldSketch())


class Recorder:
    """Records the number of outputs of each call of a head."""

    def __init__(self, head: nn.Module) -> None:
        self.sizes: list[int] = []
        head.register_forward_hook(lambda _module, _arguments, result: self.sizes.append(result.numel()))


def obviously(model: TinyGPT, inputs: torch.Tensor, positions: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (all logits at the positions that are looked at, which these are), the slow way."""
    sequences = np.arange(positions // 16) * len(inputs) // (positions // 16)
    offsets = (2 * np.arange(16) + 1) * inputs.shape[1] // 32
    with torch.no_grad():
        logits = model.eval()(inputs).logits
    model.train()
    places = torch.from_numpy(sequences)[:, None], torch.from_numpy(offsets)[None]
    return logits[places].flatten(0, 1), torch.stack(torch.broadcast_tensors(*places)).flatten(1)


def test_logits_are_bounded_and_all_that_is_seen_is_as_the_slow_way_sees_it(model: TinyGPT, budget: int) -> None:
    inputs, targets = tokens()
    expected, places = obviously(model, inputs)
    recorder = Recorder(model.head)
    probe = make(model, inputs, targets, positions=64)
    first = on_host(probe.run(frames=True))
    assert sorted(recorder.sizes)[-3:] == [16 * VOCABULARY, LENGTH * VOCABULARY, LENGTH * VOCABULARY]  # the trial
    recorder.sizes.clear()
    result = on_host(probe.run(frames=True))
    assert recorder.sizes == [16 * VOCABULARY] * 4
    assert max(recorder.sizes) <= budget
    assert probe.facts is not None
    assert (probe.facts.positions, probe.facts.outputs) == (64, VOCABULARY)
    chances = expected.softmax(1)
    np.testing.assert_allclose(
        result.sketch, FoldSketch().slice("topowatch/predictions", chances.sqrt() / 8), atol=1e-5
    )
    assert result.argmax.tolist() == chances.argmax(1).tolist()
    np.testing.assert_allclose(result.confidence, chances.amax(1), atol=1e-3)
    losses = nn.functional.cross_entropy(expected, targets[tuple(places)], reduction="none")
    np.testing.assert_allclose(result.losses, losses, rtol=1e-5)
    assert result.mean_loss == pytest.approx(float(losses.mean()), rel=1e-5)
    assert result.frames is not None
    with torch.no_grad():
        features = model.eval().features(inputs)[tuple(places)]
    np.testing.assert_allclose(result.frames, features, atol=2e-3)
    np.testing.assert_array_equal(first.sketch, result.sketch)


def test_outputs_within_the_budget_are_made_in_full_in_micro_batches(
    model: TinyGPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, targets = tokens()
    narrow = on_host(make(model, inputs, targets, positions=64).run())
    monkeypatch.setattr(probe_plan, "BUDGET", 3 * VOCABULARY * LENGTH)
    recorder = Recorder(model.head)
    probe = make(model, inputs, targets, positions=64)
    full = on_host(probe.run())
    assert recorder.sizes == [VOCABULARY * LENGTH * examples for examples in (1, 3, 1)]
    np.testing.assert_allclose(full.sketch, narrow.sketch, atol=1e-6)
    np.testing.assert_allclose(full.losses, narrow.losses, rtol=1e-5)


def each_token(outputs: Output, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs.logits.transpose(1, 2), targets, reduction="none")


def test_a_loss_that_takes_fewer_positions_is_given_them(model: TinyGPT) -> None:
    inputs, targets = tokens()
    usual = on_host(make(model, inputs, targets, positions=64).run())
    recorder = Recorder(model.head)
    probe = make(model, inputs, targets, positions=64, loss=each_token)
    probe.run()
    recorder.sizes.clear()
    np.testing.assert_allclose(on_host(probe.run()).losses, usual.losses, rtol=1e-5)
    assert set(recorder.sizes) == {16 * VOCABULARY}


def shifted_back(model: TinyGPT, inputs: torch.Tensor) -> torch.Tensor:
    return model(inputs).logits.roll(1, dims=1)


def centred_in_time(model: TinyGPT, inputs: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(inputs).logits
    return logits - logits.mean(1, keepdim=True)


def with_its_own_loss(model: TinyGPT, inputs: torch.Tensor) -> Output:
    outputs: Output = model(inputs)
    outputs.loss = nn.functional.cross_entropy(outputs.logits.flatten(0, 1), inputs.flatten())
    return outputs


def over_time(outputs: Output, targets: torch.Tensor) -> torch.Tensor:
    return each_token(outputs, targets).cumsum(1)


def in_all(outputs: Output, targets: torch.Tensor) -> torch.Tensor:
    return each_token(outputs, targets).mean()


@pytest.mark.parametrize(
    "changes",
    [
        {"forward": shifted_back},
        {"forward": centred_in_time},
        {"forward": with_its_own_loss},
        {"loss": over_time},
        {"loss": in_all},
    ],
    ids=lambda changes: next(iter(changes.values())).__name__,
)
def test_what_needs_all_positions_gets_them_one_sequence_at_a_time(
    model: TinyGPT, changes: dict[str, Callable[..., Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial notices; what is seen is the same as without a budget."""
    inputs, targets = tokens()
    recorder = Recorder(model.head)
    probe = make(model, inputs, targets, positions=64, **changes)
    probe.run()
    recorder.sizes.clear()
    result = on_host(probe.run())
    assert recorder.sizes == [LENGTH * VOCABULARY] * 4
    monkeypatch.setattr(probe_plan, "BUDGET", 1 << 22)
    free = on_host(make(model, inputs, targets, positions=64, **changes).run())
    np.testing.assert_allclose(result.sketch, free.sketch, atol=1e-6)
    assert result.mean_loss == pytest.approx(free.mean_loss, rel=1e-5)
    assert (result.losses is None) == (free.losses is None)
    if free.losses is not None:
        np.testing.assert_allclose(result.losses, free.losses, rtol=1e-5)


def test_a_head_whose_outputs_all_look_alike_is_tried_again(model: TinyGPT) -> None:
    """Heads that begin at zero prove nothing at the first pass."""
    inputs, targets = tokens()
    weight = model.head.weight.detach().clone()
    model.head.weight = nn.Parameter(torch.zeros_like(weight))
    recorder = Recorder(model.head)
    probe = make(model, inputs, targets, positions=64)
    probe.run()
    assert recorder.sizes[-4:] == [LENGTH * VOCABULARY] * 4
    model.head.weight.data.copy_(weight)
    probe.run()
    assert recorder.sizes[-4:] == [16 * VOCABULARY] * 4


def test_positions_whose_targets_are_ignored_are_not_looked_at(model: TinyGPT) -> None:
    """Prompts are ignored, as in fine-tuning, and one sequence altogether: every loss is one of a real target."""
    inputs, targets = tokens()
    targets = targets.clone()
    targets[:, :15] = IGNORED
    targets[0] = IGNORED
    result = on_host(make(model, inputs, targets, positions=64).run())
    assert result.losses is not None
    assert len(result.losses) == 64
    assert (result.losses > 0).all()
    chosen = np.array([1, 3, 6, 9])  # of the eleven that are left, evenly
    offsets = 15 + (2 * np.arange(16) + 1) * 25 // 32
    with torch.no_grad():
        logits = model.eval()(inputs).logits[chosen[:, None], offsets[None]]
    expected = nn.functional.cross_entropy(
        logits.flatten(0, 1), targets[chosen[:, None], offsets[None]].flatten(), reduction="none"
    )
    np.testing.assert_allclose(result.losses, expected, rtol=1e-5)


def test_the_digest_tells_positions_apart(model: TinyGPT) -> None:
    inputs, targets = tokens()
    ignoring = targets.clone()
    ignoring[:, :15] = IGNORED
    digests = []
    for given in (targets, targets + 0, ignoring):
        probe = make(model, inputs, given, positions=64)
        probe.run()
        assert probe.facts is not None
        digests.append(probe.facts.digest)
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda inputs, targets: (inputs, targets + VOCABULARY), "targets from .* do not fit the model's 97 outputs"),
        (lambda inputs, targets: (inputs, targets - VOCABULARY - 200), "targets from -.* do not fit"),
        (lambda inputs, targets: (inputs + VOCABULARY, targets), "an embedding has 97 rows"),
        (lambda inputs, targets: (inputs, targets.fill_(IGNORED)), "every target of the probe set is -100"),
    ],
)
def test_tokens_that_would_end_a_process_on_an_accelerator_are_refused(
    model: TinyGPT, change: Callable[..., Any], complaint: str
) -> None:
    inputs, targets = tokens()
    with pytest.raises(ProbeError, match=complaint):
        make(model, *change(inputs, targets)).run()


def test_a_failing_loss_is_raised_only_after_all_calls_were_made(
    model: TinyGPT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a sharded model other ranks wait for these calls."""
    inputs, targets = tokens()
    calls: list[int] = []

    def forward(model: TinyGPT, inputs: torch.Tensor) -> torch.Tensor:
        calls.append(len(inputs))
        return model(inputs).logits.sum(1)  # one position an example

    def loss(_outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if len(targets) == 5:
            raise RuntimeError("out of luck")
        return targets.float().mean(1)

    probe = make(model, inputs, targets, forward=forward, loss=loss)
    monkeypatch.setattr(probe_plan, "BUDGET", 5 * VOCABULARY)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of luck"):
            probe.run()
    assert calls == [1, 5, 5, 2, 5, 5, 2]
