"""Loss slices: directions and points against their definition, and the way of a wish through a job."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import topowatch_client
from client_loops import items, network, numbers, samples, train
from topowatch_client import displaced, wishes
from topowatch_client.slices import EXTENT, Slice, filter_normalised

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.integers(0, 100))
def test_filters_of_a_direction_are_as_long_as_those_of_the_weights(shape: list[int], seed: int) -> None:
    weights = torch.randn(shape, generator=generator(seed + 1000))
    direction = filter_normalised(weights, generator(seed))
    for ours, theirs in zip(direction, weights, strict=True):
        assert ours.norm().item() == pytest.approx(theirs.norm().item(), rel=1e-4)


def test_biases_and_norms_stay_where_they_are() -> None:
    assert not filter_normalised(torch.randn(7), generator(0)).any()


def taken(model: nn.Module, loss: Callable[[], torch.Tensor], side: int = 5) -> torch.Tensor:
    from contextlib import nullcontext

    found = Slice(model, side, seed=3)
    while not found.complete:
        with torch.no_grad():
            found.take_point(lambda: nullcontext(loss))
    return found.result().reshape(side, side)


INPUTS = torch.randn(20, 6, generator=generator(5))


def test_points_are_losses_at_weights_moved_along_both_directions() -> None:
    """Against a copy of the model that is given those weights."""
    model = network()
    grid = taken(model, lambda: model(INPUTS).square().mean())
    draw = generator(3)
    tensors = list(model.parameters())
    first, second = ([filter_normalised(each, draw) for each in tensors] for _ in range(2))
    axis = np.linspace(-EXTENT, EXTENT, 5)
    for row in range(5):
        for column in range(5):
            other = copy.deepcopy(model)
            with torch.no_grad():
                for moved, one, two in zip(other.parameters(), first, second, strict=True):
                    moved.add_(axis[row] * one + axis[column] * two)
            assert grid[row, column].item() == pytest.approx(other(INPUTS).square().mean().item(), rel=1e-4)


def test_a_network_that_computes_the_same_with_other_scales_has_the_same_slice() -> None:
    """What filters are normalised for (Li et al. 2018, section 4): ReLU networks can shift scale between layers."""
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False))
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        scaled[0].weight *= 8
        scaled[2].weight /= 8
    usual, other = (taken(each, lambda each=each: each(INPUTS).square().mean()) for each in (model, scaled))
    torch.testing.assert_close(usual, other, rtol=1e-4, atol=1e-6)


def watched(tmp_path: Path, model: nn.Module, optimizer: Any, **arguments: Any) -> Any:
    config = {"mode": "offline", "spool_dir": tmp_path, "interval": 4, "critical_interval": 1 << 20}
    return topowatch_client.attach(model, optimizer, config=config, **arguments)


def probed(tmp_path: Path, **arguments: Any) -> tuple[nn.Module, Any, Any]:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = (INPUTS, torch.randint(3, (20,), generator=generator(1)))
    watch = watched(tmp_path, model, optimizer, probe=probe, **arguments)
    watch._observer.governor.points_at = lambda step: step % 2 == 0
    return model, optimizer, watch


def ask(watch: Any, *found: tuple[str, int]) -> None:
    wishes.write(watch._spool.directory, [wishes.SliceWish(*each) for each in found])
    watch._observer.excursions._inbox._looked_at = 0.0


def slices(watch: Any) -> list[Any]:
    return [each.loss_slice for each in samples(watch) if each.HasField("loss_slice")]


def test_a_wish_is_carried_out_a_point_at_a_time_while_training_goes_on(tmp_path: Path) -> None:
    model, optimizer, watch = probed(tmp_path)
    train(model, optimizer, 5)
    ask(watch, ("asked", 3))
    train(model, optimizer, 60)
    (found,) = slices(watch)
    assert (found.request, found.rows, found.columns, found.extent, found.problem) == ("asked", 3, 3, EXTENT, "")
    values = np.frombuffer(found.values, "<f4")
    losses = {each.step: each.probe_losses for each in samples(watch) if each.probe_losses}
    near = np.frombuffer(losses[max(step for step in losses if step <= found.step)], "<f4").mean()
    assert values[4] == pytest.approx(near, rel=0.05)  # training goes on: a few steps lie between
    points = [each for sample in samples(watch) for each in sample.scalars if each.name == "loss_slice_points"]
    assert [int(value) for each in points for value in each.values] == [0, 2, 4, 6, 8]
    ask(watch, ("asked", 3))
    train(model, optimizer, 40)
    assert len(slices(watch)) == 1  # it was answered


def test_a_buffer_that_nothing_can_be_written_to_stays(tmp_path: Path) -> None:
    model, optimizer, watch = probed(tmp_path)
    model.register_buffer("mask", torch.ones(1).expand(4))
    train(model, optimizer, 5)
    ask(watch, ("asked", 3))
    train(model, optimizer, 60)
    (found,) = slices(watch)
    assert (found.rows, found.problem) == (3, "")


def test_a_job_that_can_take_no_slice_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topowatch_client.last_batch.compiles", lambda: False)  # as another test may have
    model = network()
    watch = watched(tmp_path, model, optimizer := torch.optim.SGD(model.parameters(), lr=0.1))
    watch._observer.governor.points_at = lambda step: step % 2 == 0
    train(model, optimizer, 5)
    ask(watch, ("asked", 3))
    train(model, optimizer, 20)
    (found,) = slices(watch)
    assert (found.request, found.rows) == ("asked", 0)
    assert "pass probe=(inputs, targets)" in found.problem
    monkeypatch.setattr(displaced, "LARGEST_BYTES", 1)
    model, optimizer, watch = probed(tmp_path)
    train(model, optimizer, 5)
    ask(watch, ("large", 3))
    train(model, optimizer, 20)
    assert "copies are made of up to" in slices(watch)[0].problem
    assert watch.status["not_measured"] == slices(watch)[0].problem


def test_an_error_that_cannot_be_encoded_is_told_all_the_same(tmp_path: Path) -> None:
    class OddError(Exception):
        def __repr__(self) -> str:
            return "\ud800" + "x" * 1000

    def forward(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        if failing:
            raise OddError
        return model(inputs)

    failing = False
    model, optimizer, watch = probed(tmp_path, forward=forward)
    train(model, optimizer, 5)
    ask(watch, ("asked", 3))
    train(model, optimizer, 4)
    failing = True
    train(model, optimizer, 20)
    (found,) = slices(watch)
    assert found.problem == watch.status["not_measured"]
    assert found.problem.startswith("off after an error: -xxx")
    assert len(found.problem) <= 200
    assert watch.status["failures"] == 0


def test_two_slices_are_not_taken_at_once_and_a_rollback_ends_one(tmp_path: Path) -> None:
    model, optimizer, watch = probed(tmp_path)
    train(model, optimizer, 5)
    ask(watch, ("first", 33), ("second", 3))
    train(model, optimizer, 20)
    watch._observer.excursions.drop("the job began again at another step")
    train(model, optimizer, 20)
    assert [(each.request, each.problem) for each in slices(watch)] == [
        ("second", "another slice is being taken"),
        ("first", "the job began again at another step"),
    ]


def test_an_inbox_reads_what_is_new_and_ignores_what_it_cannot_read(tmp_path: Path) -> None:
    inbox = wishes.Inbox(tmp_path)

    def look() -> list[str]:
        inbox._looked_at = 0.0
        return [wish.id for wish in inbox.new()]

    assert look() == []
    wishes.write(tmp_path, [wishes.SliceWish("a", 5)])
    assert look() == ["a"]
    assert look() == []
    wishes.write(tmp_path, [wishes.SliceWish("a", 5), wishes.SliceWish("b", 7), wishes.SliceWish("even", 4)])
    assert look() == ["b"]
    (tmp_path / "wishes.json").write_text('[{"id": "c"')
    assert look() == []


def test_the_gradient_travels_with_the_updates_and_is_what_made_them(tmp_path: Path) -> None:
    """Of plain gradient descent the update is −rate times the gradient, and sketches are linear."""
    model, optimizer, watch = probed(tmp_path)
    train(model, optimizer, 40)
    found = [each for each in samples(watch) if each.HasField("gradient")]
    assert len(found) == len([each for each in samples(watch) if each.HasField("update")]) > 5
    for each in found:
        np.testing.assert_allclose(numbers(each.update), -0.1 * numbers(each.gradient), atol=1e-5)
    assert len(items(watch)) >= len(found)
