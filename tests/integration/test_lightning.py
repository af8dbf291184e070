"""A real Lightning Trainer with the callback: steps, metrics, labels and ends are its own, nothing in it changes."""

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

pytestmark = [
    pytest.mark.xdist_group("lightning"),  # one process imports it
    pytest.mark.filterwarnings("ignore::lightning_fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),  # Lightning 2.6 with torch 2.13
]


@pytest.fixture(scope="module")
def training() -> Iterator[ModuleType]:
    """On one thread: networks this small only wait for one another's on more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield importlib.import_module("lightning_training")
    torch.set_num_threads(threads)


@pytest.fixture
def callback(training: ModuleType, tmp_path: Path) -> Callable[..., Any]:
    """A callback that looks at every step and at the predictions of every second one."""
    from topowatch_client.integrations.lightning import TopowatchCallback

    def make(**arguments: Any) -> TopowatchCallback:
        settings = {"mode": "offline", "spool_dir": tmp_path / "spool", "interval": 1, "probe_interval": 2}
        probe = (torch.ones(4, 6), torch.zeros(4).long())
        return TopowatchCallback(**{"run": "r", "probe": probe, "config": settings, **arguments})

    return make


def test_every_optimizer_step_has_its_loss_and_the_end_its_metrics(
    training: ModuleType, callback: Callable[..., Any], tmp_path: Path
) -> None:
    """Two batches make a step, and the fifth of an epoch a step of its own."""
    watching = callback(labels={"lr": "0.1 after all", "site": "a"})
    trainer = training.fit(tmp_path, watching, accumulate_grad_batches=2)
    assert trainer.global_step == 6
    assert looked_at(watching.watch) == list(range(6))
    found, raw = samples(watching.watch), trainer.lightning_module.losses
    batches = [(0, 1), (2, 3), (4,), (5, 6), (7, 8), (9,)]
    halves = [sum(raw[batch] / 2 for batch in part) for part in batches]  # Lightning halves a lone last batch as well
    assert merged(found, "loss") == pytest.approx(dict(enumerate(halves)))
    assert merged(found, "train_loss_step") == pytest.approx({step: raw[part[-1]] for step, part in enumerate(batches)})
    assert merged(found, "train_loss_epoch") == pytest.approx({2: sum(raw[:5]) / 5, 5: sum(raw[5:]) / 5})
    accuracy = trainer.logged_metrics["val_accuracy"].item()
    assert set(merged(found, "val_accuracy")) == {2, 5}
    assert dict(items(watching.watch)[-1].end.results) == {"val_accuracy": accuracy}
    assert dict(entries(watching.watch)[0].descriptor.labels) == {
        "lr": "0.1 after all", "site": "a", "sizes.hidden": "8",
    }  # fmt: skip
    assert watching.watch.status["failures"] == 0


def test_training_ends_bit_for_bit_where_it_ends_without_the_callback(
    training: ModuleType, callback: Callable[..., Any], tmp_path: Path
) -> None:
    bare, watched = training.fit(tmp_path), training.fit(tmp_path, callback())
    assert watched.lightning_module.losses == bare.lightning_module.losses
    weights, others = (trainer.lightning_module.state_dict() for trainer in (watched, bare))
    assert all(torch.equal(weights[name], others[name]) for name in others)


def test_a_fit_that_raises_does_not_claim_to_have_ended(
    training: ModuleType, callback: Callable[..., Any], tmp_path: Path
) -> None:
    watching = callback()
    with pytest.raises(RuntimeError, match="disk with the data"):
        training.fit(tmp_path, watching, broken_at=7)
    assert looked_at(watching.watch) == list(range(7))
    assert not any(item.HasField("end") for item in items(watching.watch))
    assert watching.watch.status["mode"] == "finished"


def test_a_fit_from_a_checkpoint_begins_where_the_checkpoint_was_made(
    training: ModuleType, callback: Callable[..., Any], tmp_path: Path
) -> None:
    """SGD keeps no step count of its own."""
    checkpoint = tmp_path / "last.ckpt"
    training.fit(tmp_path).save_checkpoint(checkpoint)
    watching = callback()
    training.fit(tmp_path, watching, epochs=3, checkpoint=checkpoint)
    assert entries(watching.watch)[0].descriptor.start_step == 10
    assert looked_at(watching.watch) == list(range(10, 15))


def test_two_optimizers_by_hand_make_one_step_a_batch(
    training: ModuleType, callback: Callable[..., Any], tmp_path: Path
) -> None:
    watching = callback()
    trainer = training.fit(tmp_path, watching, module=training.Adversaries, epochs=1)
    assert trainer.global_step == 10
    assert looked_at(watching.watch) == list(range(5))
    assert set(merged(samples(watching.watch), "loss")) == set(range(5))


def test_a_trial_of_one_batch_is_no_run(training: ModuleType, callback: Callable[..., Any], tmp_path: Path) -> None:
    watching = callback()
    training.fit(tmp_path, watching, fast_dev_run=True)
    assert watching.watch is None


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
    assert watched.lightning_module.losses == bare.lightning_module.losses
    assert "broken numbers" in caplog.text
    assert len([record for record in caplog.records if record.name == "topowatch"]) <= 4


def test_the_documentation_runs(training: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOPOWATCH_MODE", "offline")
    monkeypatch.setenv("TOPOWATCH_SPOOL_DIR", str(tmp_path / "spool"))
    code = snippet("integrations.md", "Lightning").splitlines()
    assert code[0] == "import lightning.pytorch as pl  # or: import pytorch_lightning as pl"
    names = {
        "pl": training.pl,
        "inputs": torch.ones(4, 6),
        "targets": torch.zeros(4).long(),
        "module": training.Classifier(lr=0.1, sizes={"hidden": 8}),
        "train_loader": training.loader(shuffle=True),
        "val_loader": training.loader(shuffle=False),
    }
    exec("\n".join(code[1:]), names)  # noqa: S102 -- that is what is tested
    assert "val_accuracy" in items(names["callback"].watch)[-1].end.results
