"""What users do with a watched job beside training it: copy it, compile it, name it oddly, make mistakes."""

from __future__ import annotations

import copy
import json
import os
import pickle
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from client_loops import entries, items, merged, network, samples, scalars, train
from topowatch_client import Watch, attach, identity, messages, names, outcome, spool
from topowatch_client.cli import main
from topowatch_client.config import ConfigError, load
from topowatch_client.probes import Probe, ProbeError, ProbeSettings
from topowatch_client.scalars import ScalarBuffer
from topowatch_client.sketch import FoldSketch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("TOPOWATCH_") or name in {"RANK", "WORLD_SIZE", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"}:
            monkeypatch.delenv(name)


@pytest.fixture
def watch_of(tmp_path: Path) -> Callable[..., Watch]:
    """Attach offline, with a sample at every second step unless told otherwise."""

    def start(model: Any, optimizer: Any = None, **changes: Any) -> Watch:
        settings = {"mode": "offline", "spool_dir": tmp_path / "spool", "interval": 2, **changes.pop("config", {})}
        return attach(model, optimizer, config=settings, **{"run": "r", **changes})

    return start


def _pickled(held: Any) -> Any:
    return pickle.loads(pickle.dumps(held))  # noqa: S301 -- our own bytes


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, _pickled])
def test_a_copy_of_a_watch_is_disabled_and_leaves_the_original_alone(
    watch_of: Callable[..., Watch], duplicate: Callable[[Any], Any]
) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = watch_of(model, optimizer)
    train(model, optimizer, 3)
    twin = duplicate(watch)
    twin.log(loss=1.0)
    twin.step()
    twin.finish(accuracy=1.0)
    assert twin.status["mode"] == "disabled"
    train(model, optimizer, 2)
    watch.finish()
    assert [sample.step for sample in samples(watch)] == [0, 2, 4]


def test_what_holds_a_watch_can_be_copied_without_harm_to_other_files(
    watch_of: Callable[..., Watch], tmp_path: Path
) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = SimpleNamespace(watch=watch_of(model, optimizer), model=model, optimizer=optimizer)
    train(model, optimizer, 1)
    copy.deepcopy(trainer).watch.finish()
    with (tmp_path / "mine").open("wb+", buffering=0) as mine, (tmp_path / "mine too").open("wb+", buffering=0) as too:
        train(model, optimizer, 4)
        trainer.watch.finish()
        assert (mine.read(), too.read()) == (b"", b"")
    assert trainer.watch.status["samples"] == 3


def test_a_spool_writer_refuses_to_be_copied_and_is_silent_once_closed(tmp_path: Path) -> None:
    writer = spool.SpoolWriter(tmp_path, "w", {}, 1 << 20)
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied"):
            duplicate(writer)
    writer.begin(1, b"")
    assert writer.append(b"")
    writer.close(ended=True)
    before = sorted(path.name for path in writer.directory.iterdir())
    writer.begin(2, b"")
    assert not writer.append(b"")
    writer.close(ended=True)
    assert (writer._fd, writer._lock_fd) == (-1, -1)
    assert sorted(path.name for path in writer.directory.iterdir()) == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile imports parts of torch that warn
def test_a_compiled_step_is_watched(watch_of: Callable[..., Watch]) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = watch_of(model, optimizer)
    inputs = torch.ones(4, 6)

    @torch.compile(backend="eager")
    def step() -> None:
        optimizer.step()

    for _ in range(5):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        step()
    assert (watch.status["mode"], watch.status["error"]) == ("offline", None)
    assert [sample.step for sample in samples(watch)] == [0, 2, 4]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_models_of_any_width_are_watched_with_their_gradients(watch_of: Callable[..., Watch], dtype: Any) -> None:
    model = network().to(dtype)
    watch = watch_of(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    watch.step()
    assert watch.status["error"] is None
    count = sum(parameter.numel() for parameter in model.parameters())
    assert scalars(samples(watch)[0])["gradient_norm"][0] == pytest.approx(count**0.5)


def test_names_and_labels_are_made_what_the_daemon_takes_with_one_warning(
    watch_of: Callable[..., Watch], caplog: pytest.LogCaptureFixture
) -> None:
    labels = {"note": "two\nlines", "long": "x" * 300, "odd": "\udc80", "": "empty", "k" * 300: "v"}
    labels |= {f"l{number}": "" for number in range(70)}
    watch = watch_of(network(), run="exp/1\udcff", group="team\\sweep\x07", labels=labels)
    watch.step()
    descriptor = entries(watch)[0].descriptor
    assert (descriptor.key.group, descriptor.key.run) == ("team-sweep-", "exp-1-")
    assert (watch.status["group"], watch.status["run"]) == ("team-sweep-", "exp-1-")
    assert len(descriptor.labels) == 64
    assert descriptor.labels["note"] == "two lines"
    assert descriptor.labels["long"] == "x" * 200
    assert (descriptor.labels["odd"], descriptor.labels["-"], descriptor.labels["k" * 200]) == (" ", "empty", "v")
    assert len([record for record in caplog.records if record.name == "topowatch"]) == 1
    for part in ("'exp/1", "'team", "'note'", "'long'", "labels from", "64"):
        assert part in watch.status["warning"]


def test_ordinary_names_are_left_as_they_are(watch_of: Callable[..., Watch]) -> None:
    watch = watch_of(network(), run="Läuf 1", group="g", labels={"lr": "0.1", "pfad": "/a/b"})
    watch.step()
    descriptor = entries(watch)[0].descriptor
    assert (descriptor.key.run, dict(descriptor.labels)) == ("Läuf 1", {"lr": "0.1", "pfad": "/a/b"})
    assert watch.status["warning"] is None


def test_long_names_of_runs_stay_apart_and_dots_are_no_names() -> None:
    one, two = (names.of_key("x" * 300 + end) for end in "ab")
    assert one != two
    assert len(one) == len(two) == 200
    assert (names.of_key("."), names.of_key("..")) == ("-", "--")


def test_odd_names_of_scalars_and_results_do_not_cost_the_sample(
    watch_of: Callable[..., Watch], caplog: pytest.LogCaptureFixture
) -> None:
    watch = watch_of(network())
    watch.step()
    watch.log(**{"": 1.0, "a\nb": 2.0, "x" * 300: 3.0, "\udc80": 4.0, "fine": 5.0})
    watch.step()
    watch.step()
    watch.finish(**{"\x00": 1.0})
    found = samples(watch)
    assert (merged(found, "-"), merged(found, "a-b"), merged(found, "x" * 200)) == ({0: 4.0}, {0: 2.0}, {0: 3.0})
    assert merged(found, "fine") == {0: 5.0}
    assert dict(items(watch)[-1].end.results) == {"-": 1.0}
    assert watch.status["failures"] == 0
    assert "''" in watch.status["warning"]
    assert len([record for record in caplog.records if record.name == "topowatch"]) == 1


def test_a_sample_takes_500_names_and_the_next_one_500_again() -> None:
    buffer = ScalarBuffer()
    for _ in range(2):
        buffer.add(0, {f"s{number}": 1.0 for number in range(600)})
        buffer.add(1, {"s0": 2.0})
        buffer.put(1, "learning_rate", 0.1)
        series = buffer.take().series([])
        assert len(series) == 501
        assert series[0].steps == [0, 1]
    assert buffer.warning is not None
    assert "over 500 names" in buffer.warning


def test_no_sample_goes_without_its_descriptor(watch_of: Callable[..., Watch], monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = messages.encode_descriptor, [0]

    def fail_once(*arguments: Any, **named: Any) -> bytes:
        calls[0] += 1
        if calls[0] == 1:
            raise ValueError("cannot be encoded")
        return real(*arguments, **named)

    monkeypatch.setattr(messages, "encode_descriptor", fail_once)
    watch = watch_of(network())
    for _ in range(5):
        watch.step()
    assert len(samples(watch)) == watch.status["samples"] > 0
    assert all(entry.descriptor.key.run == "r" for entry in entries(watch))


@pytest.mark.parametrize(
    "settings",
    [
        {"sketch_seed": -1},
        {"sketch_seed": 2**63},
        {"incarnation": 2**63},
        {"start_step": 2**63},
        {"sketch_dim": 1 << 17},
        {"probe_positions": 1 << 21},
    ],
)
def test_numbers_that_do_not_fit_the_wire_are_refused(settings: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        load(settings, {}, tmp_path)


def test_a_bad_incarnation_is_not_remembered() -> None:
    for bad in (2**64, 2**63, 0, -1):
        with pytest.raises(ValueError, match="incarnation"):
            identity.next_incarnation(bad)
    assert identity.next_incarnation() < 2**63


def _put_away_refused(directory: Path, seqs: list[int]) -> None:
    """Leave what the forwarder leaves of a spool of which some was refused."""
    line = {"time": 0.0, "seqs": seqs, "reason": "malformed: the run has no name"}
    (directory / spool.REJECTED_LOG).write_text(json.dumps(line) + "\n", encoding="utf-8")
    for path in directory.iterdir():
        if path.name != spool.REJECTED_LOG:
            path.unlink()


def test_a_refusal_ends_the_wait_and_can_be_read_in_the_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topowatch_client.spawn.ensure_forwarder", lambda *_: False)
    monkeypatch.setattr("topowatch_client.watch._FINISH_SECONDS", 600.0)
    watch = attach(network(), config={"spool_dir": tmp_path, "interval": 1})
    for _ in range(3):
        watch.step()
    directory = tmp_path / next(path.name for path in tmp_path.iterdir() if path.is_dir())

    def refuse() -> None:
        while not (directory / spool.ENDED).exists():
            time.sleep(0.01)
        _put_away_refused(directory, [0, 1, 2, 3])

    forwarder = threading.Thread(target=refuse)
    forwarder.start()
    watch.finish()
    forwarder.join()
    status = watch.status
    assert (status["acked"], status["rejected"]) == (0, 4)
    assert "the run has no name" in status["forwarder"]


def test_a_spool_that_is_gone_was_acked_and_a_living_one_says_why_it_was_refused(tmp_path: Path) -> None:
    assert outcome.read_outcome(tmp_path / "gone", 7) == {"acked": 7, "rejected": 0}
    (tmp_path / spool.META).write_text("{}")
    (tmp_path / spool.CURSOR).write_text('{"acked": 5, "rejected": 2, "message": ""}')
    (tmp_path / spool.REJECTED_LOG).write_text('{"seqs": [1, 2], "reason": "too_large: 9 bytes"}\n')
    told = outcome.read_outcome(tmp_path, 7)
    assert (told["acked"], told["rejected"], told["message"]) == (5, 2, "refused by the daemon: too_large: 9 bytes")


def test_forward_refuses_a_directory_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forward", str(tmp_path / "tpyo")]) == 1
    assert "is no directory" in capsys.readouterr().err
    assert not (tmp_path / "tpyo").exists()


@pytest.mark.parametrize(
    ("arguments", "target"), [([], "the daemon that each job names"), (["--endpoint", "d:1"], "d:1")]
)
def test_forward_says_once_what_it_watches_and_where_it_ships(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: Any, target: str
) -> None:
    async def serve(_directory: Path, _config: object, _plan: object, on_scan: Callable[[object], None]) -> object:
        on_scan(None)
        on_scan(None)
        return object()

    monkeypatch.setattr("topowatch_client.forwarder.serve", serve)
    assert main(["forward", str(tmp_path), *arguments]) == 0
    assert capsys.readouterr().out == f"watching {tmp_path}, shipping to {target}\n"


@pytest.mark.parametrize("targets", [torch.zeros(3).long(), torch.zeros(9).long(), torch.tensor(1), (torch.zeros(3),)])
def test_targets_that_do_not_match_the_inputs_are_refused(targets: Any) -> None:
    with pytest.raises(ProbeError, match=r"probe inputs have 8 rows and the targets \d"):
        Probe(network(), ProbeSettings(torch.zeros(8, 6), targets), FoldSketch())


@pytest.mark.parametrize("probe", [torch.zeros(2, 6), (torch.zeros(2, 6),), "ab", (1, 2, 3)])
def test_a_probe_that_is_no_pair_is_said(watch_of: Callable[..., Watch], probe: Any) -> None:
    assert "probe must be a pair" in watch_of(network(), probe=probe).status["error"]


def test_swapped_and_strange_arguments_are_said_and_leave_no_spool(
    watch_of: Callable[..., Watch], tmp_path: Path
) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert "swapped" in watch_of(optimizer, model).status["error"]
    assert "must be a torch.nn.Module, not str" in watch_of("model").status["error"]
    assert "must be a torch.optim.Optimizer, or several of them, not str" in watch_of(model, "sgd").status["error"]
    assert not (tmp_path / "spool").exists()


@pytest.mark.parametrize("value", [torch.ones((), dtype=torch.complex64), 1j])
def test_complex_scalars_are_refused_in_words(value: Any) -> None:
    with pytest.raises(TypeError, match=r"log\(loss=…\) takes real numbers"):
        ScalarBuffer().add(0, {"loss": value})


def test_complex_losses_and_outputs_of_a_probe_are_refused_in_words() -> None:
    def loss(outputs: torch.Tensor, _targets: Any) -> torch.Tensor:
        return outputs.sum(1).to(torch.complex64)

    settings = ProbeSettings(torch.zeros(8, 6), torch.zeros(8).long(), loss=loss)
    with pytest.raises(ProbeError, match="loss must be a real number"):
        Probe(network(), settings, FoldSketch()).run()
    with pytest.raises(ProbeError, match="outputs must be real"):
        Probe(nn.Identity(), ProbeSettings(torch.zeros(8, 6, dtype=torch.complex64)), FoldSketch()).run()
