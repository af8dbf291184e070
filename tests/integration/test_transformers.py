"""A real Hugging Face Trainer with the callback: steps, metrics, labels and ends are its own, nothing in it changes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pytest
import torch

from client_loops import entries, items, looked_at, merged, samples
from doc_snippets import snippet
from topowatch_client.integrations import attachment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType

pytestmark = pytest.mark.xdist_group("huggingface")  # one process imports it
STEPS = 10  # 20 examples, 2 a batch, 2 batches a step, 2 epochs


@pytest.fixture(scope="module")
def training() -> Iterator[ModuleType]:
    """On one thread: networks this small only wait for one another's on more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield importlib.import_module("transformers_training")
    torch.set_num_threads(threads)


@pytest.fixture
def callback(training: ModuleType, tmp_path: Path) -> Callable[..., Any]:
    """A callback that looks at every step and at the predictions of every second one."""
    from topowatch_client.integrations.transformers import TopowatchCallback

    def make(**arguments: Any) -> TopowatchCallback:
        settings = {"mode": "offline", "spool_dir": tmp_path / "spool", "interval": 1, "probe_interval": 2}
        words = torch.stack([sentence["input_ids"] for sentence in training.sentences()[:4]])
        return TopowatchCallback(**{"probe": ({"input_ids": words}, words), "config": settings, **arguments})

    return make


def test_what_the_trainer_logs_is_kept_for_its_optimizer_step(
    training: ModuleType, callback: Callable[..., Any], tmp_path: Path
) -> None:
    """Two batches make a step; the trainer says 1 where one step is done, and that step is number 0."""
    watching = callback(labels={"seed": "mine"})
    trainer = training.fit(tmp_path, watching, run_name="tiny")
    assert trainer.state.global_step == STEPS
    assert looked_at(watching.watch) == list(range(STEPS))
    found, history = samples(watching.watch), trainer.state.log_history
    for name in ("loss", "grad_norm", "eval_loss", "train_loss"):
        logged = {entry["step"] - 1: entry[name] for entry in history if name in entry}
        assert logged
        assert merged(found, name) == pytest.approx(logged)
    assert set(merged(found, "probe_loss")) == set(range(0, STEPS, 2))
    assert not any("_per_second" in series.name for sample in found for series in sample.scalars)
    [*_, evaluation] = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    assert dict(items(watching.watch)[-1].end.results) == {"eval_loss": evaluation}
    descriptor = entries(watching.watch)[0].descriptor
    assert watching.watch.status["run"] == "tiny"
    expected = {"learning_rate": "0.01", "optim": "sgd", "gradient_accumulation_steps": "2", "seed": "mine"}
    assert {name: descriptor.labels[name] for name in expected} == expected
    assert watching.watch.status["failures"] == 0


def test_training_ends_bit_for_bit_where_it_ends_without_the_callback(
    training: ModuleType, callback: Callable[..., Any], tmp_path: Path
) -> None:
    bare, watched = training.fit(tmp_path), training.fit(tmp_path, callback())
    losses, others = ([entry.get("loss") for entry in trainer.state.log_history] for trainer in (watched, bare))
    assert losses == others
    weights, other_weights = (trainer.model.state_dict() for trainer in (watched, bare))
    assert all(torch.equal(weights[name], other_weights[name]) for name in other_weights)


def test_a_training_that_raises_does_not_claim_to_have_ended(
    training: ModuleType, callback: Callable[..., Any], tmp_path: Path
) -> None:
    """The trainer tells nobody; the run is let go of when the next one begins, or the process ends."""
    watching = callback()
    with pytest.raises(RuntimeError, match="disk with the data"):
        training.fit(tmp_path, watching, training.BrokenAt(3))
    broken = watching.watch
    assert looked_at(broken) == [0, 1, 2]
    training.fit(tmp_path, watching)
    assert broken.status["mode"] == "finished"
    assert not any(item.HasField("end") for item in items(broken))
    assert looked_at(broken) == [0, 1, 2]
    assert items(watching.watch)[-1].HasField("end")


def test_a_training_from_a_checkpoint_begins_where_the_checkpoint_was_made(
    training: ModuleType, callback: Callable[..., Any], tmp_path: Path
) -> None:
    """SGD keeps no step count of its own."""
    training.fit(tmp_path, save_strategy="epoch")
    watching = callback()
    training.fit(tmp_path, watching, checkpoint=tmp_path / "out" / "checkpoint-5")
    assert entries(watching.watch)[0].descriptor.start_step == 5
    assert looked_at(watching.watch) == list(range(5, STEPS))


def test_errors_of_ours_stay_ours(
    training: ModuleType,
    callback: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever of ours raises, training goes on as it would have, and the log says so once a hook."""

    def fail(*_: object) -> None:
        raise RuntimeError("broken numbers")

    bare = training.fit(tmp_path)
    monkeypatch.setattr(attachment, "numbers", fail)
    watched = training.fit(tmp_path, callback())
    losses, others = ([entry.get("loss") for entry in trainer.state.log_history] for trainer in (watched, bare))
    assert losses == others
    assert "broken numbers" in caplog.text
    assert len([record for record in caplog.records if record.name == "topowatch"]) <= 3


@pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")
def test_the_documentation_runs(training: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOPOWATCH_MODE", "offline")
    monkeypatch.setenv("TOPOWATCH_SPOOL_DIR", str(tmp_path / "spool"))
    sentences = training.sentences()
    names = {
        "model": training.network(),
        "sentences": sentences,
        "words": torch.stack([sentence["input_ids"] for sentence in sentences]),
    }
    exec(snippet("integrations.md", "Hugging Face Transformers"), names)  # noqa: S102 -- that is what is tested
    assert "train_loss" in items(names["callback"].watch)[-1].end.results
