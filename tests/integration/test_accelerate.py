"""A real Accelerate loop with the tracker: steps, metrics, labels and ends are its own, nothing in it changes."""

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
BATCHES = [(0, 1), (2, 3), (4,), (5, 6), (7, 8), (9,)]  # of each step


@pytest.fixture
def training() -> Iterator[ModuleType]:
    """On one thread, which is faster for networks this small; Accelerate keeps its settings for the whole process."""
    from accelerate.state import AcceleratorState, GradientState

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield importlib.import_module("accelerate_training")
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    torch.set_num_threads(threads)


@pytest.fixture
def tracker(training: ModuleType, tmp_path: Path) -> Callable[..., Any]:
    """A tracker that looks at every step and at the predictions of every second one."""
    from topowatch_client.integrations.accelerate import TopowatchTracker

    def make(**arguments: Any) -> TopowatchTracker:
        settings = {"mode": "offline", "spool_dir": tmp_path / "spool", "interval": 1, "probe_interval": 2}
        probe = (torch.ones(4, 6), torch.zeros(4).long())
        return TopowatchTracker(**{"run": "r", "probe": probe, "config": settings, **arguments})

    return make


def test_what_the_loop_logs_is_kept_for_its_optimizer_step(training: ModuleType, tracker: Callable[..., Any]) -> None:
    """Two batches make a step, and the fifth of an epoch a step of its own; the last loss logged for a step stays."""
    watching = tracker(labels={"lr": "mine"})
    losses, _ = training.fit(watching)
    assert looked_at(watching.tracker) == list(range(6))
    # What is logged in the middle of a step belongs to the one that ended before it.
    logged = {0: losses[2], 1: losses[3], 2: losses[5], 3: losses[7], 4: losses[8], 5: losses[9]}
    assert merged(samples(watching.tracker), "loss") == {step: loss.item() for step, loss in logged.items()}
    end = items(watching.tracker)[-1].end
    assert dict(end.results) == {"loss": losses[9].item(), "accuracy": 0.5}
    assert dict(entries(watching.tracker)[0].descriptor.labels) == {"lr": "mine", "batch": "4"}
    assert watching.tracker.status["failures"] == 0


def test_training_ends_bit_for_bit_where_it_ends_without_the_tracker(
    training: ModuleType, tracker: Callable[..., Any]
) -> None:
    (losses, model), (others, bare) = training.fit(tracker()), training.fit()
    assert torch.equal(torch.stack(losses), torch.stack(others))
    weights = bare.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_loop_that_raises_does_not_claim_to_have_ended(training: ModuleType, tracker: Callable[..., Any]) -> None:
    watching = tracker()
    with pytest.raises(RuntimeError, match="disk with the data"):
        training.fit(watching, broken_at=5)
    broken = watching.tracker
    training.fit(watching)
    assert broken.status["mode"] == "finished"
    assert looked_at(broken) == [0, 1, 2]
    assert not any(item.HasField("end") for item in items(broken))


def test_a_loop_from_a_checkpoint_begins_where_it_says(
    training: ModuleType, tracker: Callable[..., Any], tmp_path: Path
) -> None:
    """SGD keeps no step count of its own."""
    checkpoint = tmp_path / "checkpoint"
    training.fit(checkpoint=checkpoint)
    watching = tracker()
    training.fit(watching, epochs=1, checkpoint=checkpoint, done=6)
    assert entries(watching.tracker)[0].descriptor.start_step == 6
    assert looked_at(watching.tracker) == [6, 7, 8]


def test_a_tracker_without_a_model_says_so_once(
    training: ModuleType, tracker: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    watching = tracker()
    watching.log({"loss": 1.0})
    watching.log({"loss": 2.0})
    watching.finish()
    [record] = caplog.records
    assert "tracker.attach(model, optimizer)" in record.getMessage()


def test_errors_of_ours_stay_ours(
    training: ModuleType, tracker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever of ours raises, training goes on as it would have, and the log says so once a hook."""

    def fail(*_: object) -> None:
        raise RuntimeError("broken numbers")

    watching = tracker()
    monkeypatch.setattr(attachment, "attach", fail)
    monkeypatch.setattr(attachment.Attachment, "log", fail)
    (losses, _), (others, _) = training.fit(watching), training.fit()
    assert torch.equal(torch.stack(losses), torch.stack(others))
    assert "broken numbers" in caplog.text
    assert len([record for record in caplog.records if record.exc_info]) == 2


def test_the_documentation_runs(training: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOPOWATCH_MODE", "offline")
    monkeypatch.setenv("TOPOWATCH_SPOOL_DIR", str(tmp_path / "spool"))
    model = torch.nn.Linear(6, 3)
    data = torch.utils.data.TensorDataset(torch.randn(20, 6), torch.randint(3, (20,)))
    names = {
        "torch": torch,
        "inputs": torch.ones(4, 6),
        "targets": torch.zeros(4).long(),
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loader": torch.utils.data.DataLoader(data, batch_size=4),
    }
    exec(snippet("integrations.md", "Accelerate"), names)  # noqa: S102 -- that is what is tested
    assert "loss" in items(names["tracker"].tracker)[-1].end.results
