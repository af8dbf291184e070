"""What all integrations share: what becomes of arguments, hyperparameters, logged values and errors on their way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from client_loops import entries, items, looked_at, merged, network, samples, train
from topowatch_client.config import Config
from topowatch_client.integrations.attachment import Attachment, kept_from_training

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def attachment(tmp_path: Path) -> Callable[..., Attachment]:
    def make(**arguments: Any) -> Attachment:
        settings = {"mode": "offline", "spool_dir": tmp_path / "spool", "interval": 1}
        return Attachment({"run": "r", "config": settings, **arguments})

    return make


def descriptor_of(attachment: Attachment) -> Any:
    assert attachment.watch is not None
    attachment.watch.step()
    return entries(attachment.watch)[0].descriptor


def test_an_argument_that_attach_does_not_have_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="'rune'"):
        Attachment({"rune": "r"})  # type: ignore[typeddict-unknown-key] # that is what is tested


def test_hyperparameters_become_labels_unless_the_user_has_said_otherwise(
    attachment: Callable[..., Attachment],
) -> None:
    given = {
        "lr": 0.1,
        "seed": 3,
        "amp": False,
        "net": {"depth": 2, "act": "relu"},
        "tags": [1],
        "_class": "x",
        "n": None,
    }
    watched = attachment(labels={"seed": "mine"})
    watched.begin(network(), None, hyperparameters=given)
    assert dict(descriptor_of(watched).labels) == {
        "lr": "0.1", "seed": "mine", "amp": "False", "net.depth": "2", "net.act": "relu",
    }  # fmt: skip


@pytest.mark.parametrize(("own", "first"), [({}, 7), ({"start_step": 3}, 3)])
@pytest.mark.parametrize("kind", [dict, Config])
def test_a_run_starts_where_the_framework_says_unless_the_user_says_otherwise(
    own: dict[str, int], first: int, kind: Callable[..., Any], tmp_path: Path
) -> None:
    watched = Attachment({"config": kind(mode="offline", spool_dir=tmp_path, **own)})
    watched.begin(network(), None, run="r", start_step=7)
    assert descriptor_of(watched).start_step == first


def test_the_users_name_for_a_run_wins_over_the_frameworks(attachment: Callable[..., Attachment]) -> None:
    named, unnamed = attachment(), attachment(run=None)
    for each in (named, unnamed):
        each.begin(network(), None, run="theirs")
    assert [each.watch.status["run"] for each in (named, unnamed) if each.watch] == ["r", "theirs"]


def test_only_numbers_are_logged(attachment: Callable[..., Attachment]) -> None:
    watched, model = attachment(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched.begin(model, optimizer)
    train(model, optimizer, 1)
    kept = {"float": 1.0, "tensor": torch.ones(1), "scalar": np.float32(2), 5: 4}
    left_out = {"row": torch.ones(2), "array": np.ones(2), "text": "3", "nothing": None, "nested": {"a": 1.0}}
    values = {**kept, **left_out}
    watched.log(values)
    watched.finish({**values, "accuracy": torch.tensor(0.5)})
    assert watched.watch is not None
    assert watched.watch.status["failures"] == 0
    names = {series.name for sample in samples(watched.watch) for series in sample.scalars}
    assert {"float", "tensor", "scalar", "5"} <= names
    assert not left_out.keys() & names
    assert dict(items(watched.watch)[-1].end.results) == {
        "float": 1.0, "tensor": 1.0, "scalar": 2.0, "5": 4.0, "accuracy": 0.5,
    }  # fmt: skip


def test_a_run_that_another_follows_is_let_go_of(attachment: Callable[..., Attachment]) -> None:
    """Its hooks come off the optimiser, and nothing says that it ended."""
    watched, model = attachment(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched.begin(model, optimizer)
    first = watched.watch
    assert first is not None
    train(model, optimizer, 2, lambda loss: watched.log({"loss": loss}))
    watched.begin(model, optimizer)
    assert watched.watch is not None
    train(model, optimizer, 3)
    assert looked_at(first) == [0, 1]
    assert set(merged(samples(first), "loss")) == {0, 1}
    assert not any(item.HasField("end") for item in items(first))
    assert looked_at(watched.watch) == [0, 1, 2]


def test_an_error_is_logged_once_and_not_raised(caplog: pytest.LogCaptureFixture) -> None:
    @kept_from_training
    def fail() -> None:
        raise RuntimeError("broken")

    fail()
    fail()
    [record] = caplog.records
    assert record.name == "topowatch"
    assert record.exc_info


def test_what_stops_a_training_is_not_held_up() -> None:
    @kept_from_training
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
