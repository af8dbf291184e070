"""attach() on plain loops: what reaches the spool, and what a resumed job looks like there."""

from __future__ import annotations

import copy
import io
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from client_loops import entries, items, looked_at, merged, network, numbers, samples, scalars, train
from topowatch_client import Watch, attach
from topowatch_client.sketch import FoldSketch
from topowatch_protos.v1 import sample_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("TOPOWATCH_") or name in {"RANK", "WORLD_SIZE", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"}:
            monkeypatch.delenv(name)


@pytest.fixture
def watch_of(tmp_path: Path) -> Callable[..., Watch]:
    """Attach offline, with a sample at every second step unless told otherwise."""

    def start(model: nn.Module, optimizer: torch.optim.Optimizer | None = None, **changes: Any) -> Watch:
        settings = {"mode": "offline", "spool_dir": tmp_path / "spool", "interval": 2, **changes.pop("config", {})}
        return attach(model, optimizer, config=settings, run="r", **changes)

    return start


def test_samples_carry_sketches_of_weights_and_of_the_last_update(watch_of: Callable[..., Watch]) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = watch_of(model, optimizer)
    path = [{name: values.detach().clone() for name, values in model.named_parameters()}]
    train(
        model,
        optimizer,
        7,
        lambda _: path.append({name: values.detach().clone() for name, values in model.named_parameters()}),
    )
    found = samples(watch)
    assert [sample.step for sample in found] == [0, 2, 4, 6]
    fold = FoldSketch()
    for sample in found:
        now, before = path[sample.step + 1], path[sample.step]
        np.testing.assert_allclose(numbers(sample.weights), fold.model(now.items()).numpy(), atol=1e-5)
        if sample.step:
            change = {name: now[name] - before[name] for name in now}
            np.testing.assert_allclose(numbers(sample.update), fold.model(change.items()).numpy(), atol=1e-5)
            true = torch.cat([values.flatten() for values in change.values()]).norm()
            assert scalars(sample)["update_norm"][sample.step] == pytest.approx(float(true), rel=1e-3)
        weight_norm = torch.cat([values.flatten() for values in now.values()]).norm()
        assert scalars(sample)["weight_norm"][sample.step] == pytest.approx(float(weight_norm), rel=1e-3)
        assert scalars(sample)["learning_rate"][sample.step] == pytest.approx(0.1)
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    assert scalars(found[-1])["gradient_norm"][6] == pytest.approx(float(gradient.norm()), rel=1e-4)
    ratios = [
        float((path[7][name] - path[6][name]).norm() / path[7][name].norm()) for name in path[0] if "weight" in name
    ]
    assert scalars(found[-1])["update_ratio_max"][6] == pytest.approx(max(ratios), rel=1e-3)
    assert scalars(found[-1])["update_ratio_median"][6] == pytest.approx(float(np.median(ratios)), rel=1e-3)
    assert found[-1].client.interval == 2
    assert found[-1].client.coverage == 1.0


def test_scalars_of_every_step_arrive_under_the_step_that_just_ended(watch_of: Callable[..., Watch]) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = watch_of(model, optimizer, config={"interval": 4})
    losses: list[float] = []

    def log(loss: torch.Tensor) -> None:
        watch.log(loss=loss, number=len(losses), late=loss.detach().reshape(1))
        losses.append(loss.item())

    train(model, optimizer, 10, log)
    watch.finish(accuracy=0.5)
    found = samples(watch)
    assert merged(found, "loss") == pytest.approx(dict(enumerate(losses)))
    assert merged(found, "number") == {step: float(step) for step in range(10)}
    assert merged(found, "late") == merged(found, "loss")
    for sample in found:
        for series in sample.scalars:
            assert max(series.steps) <= sample.step


def test_a_scalar_that_is_changed_in_place_later_keeps_its_value(watch_of: Callable[..., Watch]) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = watch_of(model, optimizer)
    total = torch.zeros(())
    train(model, optimizer, 3, lambda _: watch.log(total=total.add_(1)))
    watch.finish()
    assert merged(samples(watch), "total") == {0: 1.0, 1: 2.0, 2: 3.0}


def test_finish_adds_the_last_point_and_the_results(watch_of: Callable[..., Watch]) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch_of(model, optimizer, config={"interval": 64}) as watch:
        train(model, optimizer, 11, lambda loss: watch.log(loss=loss))
        watch.finish(accuracy=torch.tensor(0.75))
    found = items(watch)
    assert [item.WhichOneof("body") for item in found] == ["sample", "sample", "end"]
    assert found[1].sample.step == found[2].end.step == 10
    assert len(found[1].sample.weights.values) == 4 * 1021
    assert dict(found[2].end.results) == {"accuracy": 0.75}
    assert watch.status["mode"] == "finished"
    train(model, optimizer, 3)
    watch.log(loss=1.0)
    watch.finish()
    assert len(items(watch)) == 3


def test_a_block_that_fails_does_not_say_that_the_run_ended(watch_of: Callable[..., Watch]) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def fail() -> None:
        with watch_of(model, optimizer) as watch:
            watches.append(watch)
            train(model, optimizer, 4, lambda loss: watch.log(loss=loss))
            raise KeyError

    watches: list[Watch] = []
    with pytest.raises(KeyError):
        fail()
    assert [item.WhichOneof("body") for item in items(watches[0])] == ["sample"] * 3
    assert set(merged(samples(watches[0]), "loss")) == {0, 1, 2, 3}


def test_a_loop_without_an_optimiser_says_its_steps(watch_of: Callable[..., Watch]) -> None:
    watch = watch_of(network())
    for _ in range(5):
        watch.step()
    assert [sample.step for sample in samples(watch)] == [0, 2, 4]
    assert watch.status["step"] == 4


def test_the_descriptor_says_who_sends(watch_of: Callable[..., Watch]) -> None:
    model = network()
    watch = watch_of(
        model,
        group="g",
        labels={"lr": "0.1"},
        config={"start_step": 5, "incarnation": 7, "sketch_seed": 3, "sketch_dim": 31},
        probe=(torch.randn(20, 6), None),
    )
    watch.step()
    descriptor = entries(watch)[0].descriptor
    assert (descriptor.key.group, descriptor.key.run, dict(descriptor.labels)) == ("g", "r", {"lr": "0.1"})
    assert (descriptor.rank, descriptor.world_size, descriptor.contributing_ranks) == (0, 1, 1)
    assert (descriptor.incarnation, descriptor.start_step, descriptor.first_seq) == (7, 5, 0)
    assert (descriptor.sketch.dimension, descriptor.sketch.seed) == (31, 3)
    assert (descriptor.probe.positions, descriptor.probe.outputs) == (20, 3)
    assert descriptor.parameter_count == sum(parameter.numel() for parameter in model.parameters())
    assert len(descriptor.writer_uuid) == 32
    assert samples(watch)[0].step == 5


def test_predictions_travel_with_the_first_sample_and_the_last(watch_of: Callable[..., Watch]) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = watch_of(
        model,
        optimizer,
        config={"probe_interval": 4},
        probe=(torch.randn(20, 6), torch.randint(3, (20,))),
        loss=nn.CrossEntropyLoss(reduction="none"),
    )
    train(model, optimizer, 8)
    watch.finish()
    found = samples(watch)
    assert [sample.step for sample in found if sample.HasField("predictions")] == [0, 4, 7]
    for sample in found:
        if sample.HasField("predictions"):
            assert len(sample.predictions.sketch.values) == 4 * 1021
            assert (len(sample.predictions.argmax), len(sample.predictions.confidence)) == (80, 40)
            losses = np.frombuffer(sample.probe_losses, "<f4")
            assert scalars(sample)["probe_loss"][sample.step] == pytest.approx(float(losses.mean()), rel=1e-5)
    assert (found[0].frames.rows, found[0].frames.columns, found[0].frames.layer) == (20, 8, "2:input")


def test_a_failing_probe_is_switched_off_and_said(
    watch_of: Callable[..., Watch], caplog: pytest.LogCaptureFixture
) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = watch_of(model, optimizer, probe=(torch.randn(20, 5), None))
    train(model, optimizer, 5)
    assert "the probe pass failed" in watch.status["error"]
    assert [sample.step for sample in samples(watch)] == [0, 2, 4]
    assert len([record for record in caplog.records if "probe pass failed" in record.message]) == 1


def test_weights_that_are_not_finite_are_left_out_and_said(watch_of: Callable[..., Watch]) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = watch_of(model, optimizer)

    def spoil(_loss: torch.Tensor) -> None:
        with torch.no_grad():
            model[0].weight[0, 0] = float("inf")

    train(model, optimizer, 3, spoil)
    last = samples(watch)[-1]
    assert last.step == 2
    assert not last.weights.values
    assert not last.update.values
    assert scalars(last)["nonfinite_weights"] == {2: 1.0}
    assert not np.isfinite(scalars(last)["weight_norm"][2])
    assert "nonfinite_weights" not in scalars(samples(watch)[0])


def test_a_job_that_resumes_starts_where_its_optimiser_stands(watch_of: Callable[..., Watch]) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, 6)
    watch = watch_of(model, optimizer)
    train(model, optimizer, 2)
    assert [sample.step for sample in samples(watch)] == [6]
    assert entries(watch)[0].descriptor.start_step == 6


def test_rolling_back_to_a_checkpoint_begins_a_new_incarnation(watch_of: Callable[..., Watch]) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    watch = watch_of(model, optimizer)
    train(model, optimizer, 5, lambda loss: watch.log(loss=loss))
    checkpoint = torch.load(_saved(optimizer.state_dict()), weights_only=False)
    train(model, optimizer, 4, lambda loss: watch.log(loss=loss))
    optimizer.load_state_dict(checkpoint)
    train(model, optimizer, 4, lambda loss: watch.log(loss=loss))
    watch.finish()
    lives: dict[int, list[int]] = {}
    for entry in entries(watch):
        item = sample_pb2.Item.FromString(entry.envelope.item)
        if item.HasField("sample"):
            lives.setdefault(entry.descriptor.incarnation, []).append(item.sample.step)
    old, new = sorted(lives)
    assert lives[old] == [0, 2, 4, 6, 8, 8]  # the last one carries the scalar that was still waiting
    assert lives[new] == [5, 6, 8, 8]
    starts = {entry.descriptor.incarnation: entry.descriptor.start_step for entry in entries(watch)}
    assert starts == {old: 0, new: 5}
    assert watch.status["incarnation"] == new


def _sgd_after(steps: int) -> dict[str, Any]:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, steps)
    return optimizer.state_dict()


@pytest.mark.parametrize("load_first", [True, False])
def test_an_optimiser_that_counts_no_steps_starts_where_it_is_told(
    watch_of: Callable[..., Watch], caplog: pytest.LogCaptureFixture, load_first: bool
) -> None:
    """SGD with momentum, resumed before or after attach: `start_step` is honoured and nothing is complained about."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if load_first:
        optimizer.load_state_dict(_sgd_after(6))
    watch = watch_of(model, optimizer, config={"start_step": 6})
    if not load_first:
        optimizer.load_state_dict(_sgd_after(6))
    train(model, optimizer, 3)
    assert [sample.step for sample in samples(watch)] == [6, 8]
    assert {entry.descriptor.start_step for entry in entries(watch)} == {6}
    assert watch.status["warning"] is None
    assert "start_step" not in caplog.text


@pytest.mark.parametrize("load_first", [True, False])
def test_a_resumed_job_whose_optimiser_counts_no_steps_is_warned_once(
    watch_of: Callable[..., Watch], caplog: pytest.LogCaptureFixture, load_first: bool
) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if load_first:
        optimizer.load_state_dict(_sgd_after(6))
    watch = watch_of(model, optimizer)
    optimizer.load_state_dict(_sgd_after(6))
    train(model, optimizer, 2)
    assert len([record for record in caplog.records if 'pass config={"start_step": n}' in record.message]) == 1
    assert 'pass config={"start_step": n}' in watch.status["warning"]
    assert "SGD keeps no step count" in watch.status["warning"]
    assert watch.status["error"] is None


def test_a_job_that_begins_is_not_warned(watch_of: Callable[..., Watch], caplog: pytest.LogCaptureFixture) -> None:
    model = network()
    for kind in (torch.optim.SGD, torch.optim.Adam):
        watch = watch_of(model, kind(model.parameters(), lr=0.1))
        assert watch.status["warning"] is None
    assert not caplog.records


def _saved(state: Mapping[str, Any]) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def test_loading_a_state_of_the_same_step_changes_nothing(watch_of: Callable[..., Watch]) -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    watch = watch_of(model, optimizer)
    train(model, optimizer, 3)
    optimizer.load_state_dict(optimizer.state_dict())
    train(model, optimizer, 2)
    assert len({entry.descriptor.incarnation for entry in entries(watch)}) == 1
    assert [sample.step for sample in samples(watch)] == [0, 2, 4]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile imports parts of torch that warn
def test_compiled_and_wrapped_models_give_the_same_sketches(watch_of: Callable[..., Watch]) -> None:
    model = network()
    plain, compiled, wrapped = (watch_of(made) for made in (model, torch.compile(model), nn.DataParallel(model)))
    for watch in (plain, compiled, wrapped):
        watch.step()
    first = samples(plain)[0].weights.values
    assert samples(compiled)[0].weights.values == samples(wrapped)[0].weights.values == first


def test_layers_travel_with_probe_passes_and_without_probes_as_rarely(watch_of: Callable[..., Watch]) -> None:
    """Without probes, activations are those of a training step, seen by hooks that are gone afterwards."""
    for probe in (None, (torch.randn(8, 6), torch.randint(0, 3, (8,)))):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        watch = watch_of(model, optimizer, probe=probe, config={"interval": 2, "probe_interval": 4})
        train(model, optimizer, 9)
        found = {sample.step: {layer.name: layer for layer in sample.layers} for sample in samples(watch)}
        first = [0] if probe is not None else []
        assert [step for step, layers in found.items() if layers] == [*first, 4, 8]
        layers = found[4]
        assert set(layers) == {"0", "1", "2"}
        inputs = torch.randn(16, 6, generator=torch.Generator().manual_seed(1)) if probe is None else probe[0]
        assert layers["1"].zero_fraction == pytest.approx(0.5, abs=0.25)
        assert layers["0"].activation_deviation == pytest.approx(float(model[0](inputs).std().detach()), rel=0.3)
        parameters = list(model[2].parameters())
        assert layers["2"].weight_norm == pytest.approx(
            float(torch.cat([p.flatten() for p in parameters]).norm().detach()), rel=0.3
        )
        assert layers["2"].gradient_norm > 0
        assert layers["2"].update_norm == pytest.approx(0.1 * layers["2"].gradient_norm, rel=0.1)
        assert np.isnan(layers["1"].weight_norm)
        assert watch.status["activation_coverage"] == 1.0
        watch.finish()
        assert not any(module._forward_hooks for module in model.modules())
        assert watch.status["failures"] == 0


def test_hooks_on_modules_are_gone_with_the_watch(watch_of: Callable[..., Watch]) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = watch_of(model, optimizer, config={"interval": 1, "probe_interval": 1})
    train(model, optimizer, 1)
    assert any(module._forward_hooks for module in model.modules())
    watch.finish()
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_is_saved_and_copied_while_its_activations_are_about_to_be_seen(
    watch_of: Callable[..., Watch], tmp_path: Path
) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = watch_of(model, optimizer, config={"interval": 1, "probe_interval": 1})
    train(model, optimizer, 1)
    torch.save(model, tmp_path / "model.pt")
    for copied in (copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
        copied(torch.randn(2, 6))
    train(model, optimizer, 1)
    assert watch.status["failures"] == 0
    assert len(samples(watch)[1].layers) == 3


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
def test_gradients_that_can_be_differentiated_again_are_no_trouble(watch_of: Callable[..., Watch]) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = watch_of(model, optimizer, config={"interval": 1})
    for _ in range(5):
        model(torch.randn(4, 6)).square().mean().backward(create_graph=True)
        optimizer.step()
        for parameter in model.parameters():
            parameter.grad = None
    assert (watch.status["failures"], watch.status["samples"]) == (0, 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_default_type_changes_nothing(watch_of: Callable[..., Watch], dtype: torch.dtype) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = FoldSketch().model(model.named_parameters())
    try:
        torch.set_default_dtype(dtype)
        watch = watch_of(model, optimizer, probe=(torch.randn(8, 6, dtype=torch.float32), None), config={"interval": 1})
        watch.step()
    finally:
        torch.set_default_dtype(torch.float32)
    assert watch.status["failures"] == 0
    assert watch.status["error"] is None
    np.testing.assert_allclose(numbers(samples(watch)[0].weights), expected.numpy(), atol=1e-5)


def test_what_activations_miss_is_said_and_still_told_of_once_the_run_has_ended(
    watch_of: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hooks are not put on where torch.compile is in use, which would leave them out."""
    monkeypatch.setattr("topowatch_client.activations.compiles", lambda: True)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = watch_of(model, optimizer, config={"interval": 1, "probe_interval": 1})
    train(model, optimizer, 3)
    for _ in range(2):
        assert watch.status["activation_coverage"] == 0.0
        assert "activations are not seen: torch.compile is in use" in watch.status["warning"]
        watch.finish()


@pytest.mark.parametrize("stepping", [False, True])
@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("best", [False, True])
def test_the_weights_at_the_end_are_those_of_the_last_step_or_not_looked_at(
    watch_of: Callable[..., Watch], best: bool, assign: bool, stepping: bool
) -> None:
    """Many loops load their best checkpoint before they tell how well it did; also where no optimiser was given."""
    model = network()
    state = {name: values.clone() for name, values in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters())
    watch = watch_of(model, None if stepping else optimizer)
    train(model, optimizer, 4, lambda _: watch.step() if stepping else None)
    if best:
        model.load_state_dict(state, assign=assign)
    watch.finish(test_accuracy=0.9)
    assert looked_at(watch) == ([0, 2] if best else [0, 2, 3])
    assert items(watch)[-1].end.results == {"test_accuracy": 0.9}
    assert watch.status["failures"] == 0
