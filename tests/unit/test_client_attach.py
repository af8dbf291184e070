"""attach() and the handle never raise, whatever is given to them and whatever fails underneath."""

from __future__ import annotations

import gc
import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from client_loops import entries, items, network, train
from topowatch_client import Watch, attach, session
from topowatch_client.config import Config
from topowatch_client.sketch import FoldSketch

if TYPE_CHECKING:
    from collections.abc import Callable


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


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"config": {"mode": "sideways"}}, "mode"),
        ({"config": {"colour": "red"}}, "unknown key 'colour'"),
        ({"config": 3}, "int"),
        ({"endpoint": "nowhere"}, "HOST:PORT"),
        ({"labels": {"lr": 0.1}}, "labels are text"),
        ({"labels": 5}, "int"),
        ({"probe": 7}, "int"),
        ({"probe": (torch.ones(2, 6), None), "layer": "nowhere"}, "no module named"),
        ({"probe": (torch.ones(2, 6), None), "output": "guess"}, "output must be"),
        ({"run": 12}, "run must be"),
    ],
)
def test_attach_never_raises_and_says_what_is_wrong(
    arguments: dict[str, Any], complaint: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    arguments = dict(arguments)
    settings = arguments.pop("config", {})
    if isinstance(settings, dict):
        settings = {"mode": "offline", "spool_dir": tmp_path, **settings}
    watch = attach(model, optimizer, config=settings, **arguments)
    assert watch.status["mode"] == "disabled"
    assert complaint in watch.status["error"]
    assert len([record for record in caplog.records if record.name == "topowatch"]) == 1
    train(model, optimizer, 2, lambda loss: watch.log(loss=loss))
    watch.step()
    watch.finish(accuracy=1.0)
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("arguments", [(None, None), ("model", None), (network(), "optimiser")])
def test_wrong_types_disable_and_do_not_raise(arguments: tuple[Any, Any], tmp_path: Path) -> None:
    watch = attach(*arguments, config={"mode": "offline", "spool_dir": tmp_path})
    assert watch.status["mode"] == "disabled"
    assert watch.status["error"]


def test_a_spool_directory_that_cannot_be_made_disables(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    watch = attach(network(), config={"mode": "offline", "spool_dir": tmp_path / "file"})
    assert watch.status["mode"] == "disabled"


def test_disabled_does_nothing_at_all(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = attach(model, optimizer, config=Config(mode="disabled", spool_dir=tmp_path / "spool"))
    train(model, optimizer, 2, lambda loss: watch.log(loss=loss))
    assert watch.status["mode"] == "disabled"
    assert watch.status["error"] is None
    assert not (tmp_path / "spool").exists()


def test_only_rank_0_of_a_replicated_model_sends(watch_of: Callable[..., Watch], monkeypatch: Any) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "1")
    assert watch_of(network()).status["mode"] == "disabled"
    monkeypatch.setenv("RANK", "0")
    watch = watch_of(network())
    watch.step()
    descriptor = entries(watch)[0].descriptor
    assert (descriptor.rank, descriptor.world_size, descriptor.contributing_ranks) == (0, 4, 1)


def test_errors_are_kept_from_training_counted_and_end_watching(
    watch_of: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = watch_of(model, optimizer)

    def fail(*_: object) -> None:
        raise RuntimeError("broken sketch")

    monkeypatch.setattr(FoldSketch, "matrix", fail)
    train(model, optimizer, 10)
    assert watch.status["mode"] == "disabled"
    assert watch.status["failures"] == 3
    assert "broken sketch" in watch.status["error"]
    assert len([record for record in caplog.records if record.name == "topowatch"]) == 2


def test_an_error_now_and_then_does_not_end_watching(
    watch_of: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = watch_of(model, optimizer)
    real, calls = FoldSketch.matrix, [0]

    def sometimes(self: FoldSketch, parameters: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] % 5 == 0:
            raise RuntimeError("hiccup")
        return real(self, parameters)

    monkeypatch.setattr(FoldSketch, "matrix", sometimes)
    train(model, optimizer, 60)
    assert watch.status["mode"] == "offline"
    assert watch.status["failures"] > 3


def test_results_that_are_no_numbers_do_not_keep_the_run_from_ending(watch_of: Callable[..., Watch]) -> None:
    watch = watch_of(network())
    watch.step()
    watch.finish(accuracy=0.5, note="good", loss=torch.ones((), requires_grad=True))  # type: ignore[arg-type]
    assert dict(items(watch)[-1].end.results) == {"accuracy": 0.5, "loss": 1.0}


def test_log_refuses_nonsense_without_raising(watch_of: Callable[..., Watch]) -> None:
    watch = watch_of(network())
    watch.log(loss=torch.ones(3))
    watch.log(loss="high")
    assert watch.status["failures"] == 2
    watch.step()
    assert watch.status["mode"] == "offline"


def test_hooks_do_nothing_in_a_forked_child(watch_of: Callable[..., Watch]) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = watch_of(model, optimizer)
    train(model, optimizer, 1)
    before = len(items(watch))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover -- runs in the child
        watch.step()
        watch.log(loss=1.0)
        watch.finish()
        os.write(write, b"1" if watch._live() is None else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"1"
    os.close(read)
    os.close(write)
    assert len(items(watch)) == before
    assert watch.status["mode"] == "offline"


def test_an_interval_that_is_no_power_of_two_is_rounded_up_and_said(
    watch_of: Callable[..., Watch], caplog: pytest.LogCaptureFixture
) -> None:
    assert watch_of(network(), config={"interval": 5}).status["interval"] == 8
    assert "every 8 steps instead of 5" in caplog.text


def test_status_has_what_the_contract_names(watch_of: Callable[..., Watch]) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = watch_of(model, optimizer)
    train(model, optimizer, 6)
    status = watch.status
    assert (status["mode"], status["run"], status["group"], status["samples"]) == ("offline", "r", "default", 3)
    assert (status["dropped"], status["coverage"], status["error"]) == (0, 1.0, None)
    assert status["spooled_bytes"] > 3 * 4 * 1021
    assert 0 < status["overhead_ratio"] < 1
    assert status["incarnation"] > 0


def test_parameters_that_cannot_be_sketched_lower_the_coverage(watch_of: Callable[..., Watch]) -> None:
    model = network()
    model.register_parameter("codes", nn.Parameter(torch.zeros(75, dtype=torch.int8), requires_grad=False))
    watch = watch_of(model)
    watch.step()
    floats = sum(parameter.numel() for parameter in network().parameters())
    assert watch.status["coverage"] == pytest.approx(floats / (floats + 75))


def test_the_forwarder_is_looked_after_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Online, the forwarder is asked for at attach and not at every sample; trouble in starting it is survived."""
    calls: list[Path] = []

    def ensure(spool_dir: Path, _token: str | None) -> bool:
        calls.append(spool_dir)
        raise OSError("no more processes")

    monkeypatch.setattr("topowatch_client.spawn.ensure_forwarder", ensure)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = attach(model, optimizer, config={"spool_dir": tmp_path, "interval": 1})
    train(model, optimizer, 21)
    assert calls == [tmp_path]
    assert watch.status["mode"] == "online"
    assert watch.status["samples"] == 20
    assert "no more processes" in watch.status["error"]
    watch._close(ended=False)


def test_a_watch_does_not_keep_a_model_alive(watch_of: Callable[..., Watch]) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = watch_of(model, optimizer)
    train(model, optimizer, 2)
    reference = weakref.ref(model)
    del model, optimizer, watch
    gc.collect()
    assert reference() is None


def test_a_finished_watch_keeps_nothing_of_the_job_and_still_tells_of_it(watch_of: Callable[..., Watch]) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = watch_of(model, optimizer, probe=(torch.randn(4, 6), None))
    train(model, optimizer, 4)
    watch.finish()
    references = [weakref.ref(model), weakref.ref(optimizer)]
    del model, optimizer
    gc.collect()
    assert [reference() for reference in references] == [None, None]
    status = watch.status
    assert (status["step"], status["coverage"], status["activation_coverage"]) == (3, 1.0, 1.0)


def test_a_forwarder_that_ends_at_once_is_started_ever_more_rarely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, started = [1000.0], []
    monkeypatch.setattr("topowatch_client.watch.time.monotonic", lambda: now[0])
    monkeypatch.setattr("topowatch_client.spawn.ensure_forwarder", lambda *_: started.append(now[0]) or True)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = attach(model, optimizer, config={"spool_dir": tmp_path, "interval": 1})
    for _ in range(300):
        now[0] += 1.0
        train(model, optimizer, 1)
    assert started == [1000.0, 1020.0, 1060.0, 1140.0, 1300.0]
    watch._close(ended=False)


def test_the_notes_beside_a_spool_hold_no_secret() -> None:
    meta = session._meta(Config(token="secret", token_file=Path("/t")), "r")  # noqa: S106 -- a made-up one
    assert "secret" not in repr(meta)
    assert (meta["token_file"], meta["endpoint"], meta["mode"]) == ("/t", "127.0.0.1:7070", "online")
