"""The command line: what it prints, and how it fails."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from served import Served
from topowatch_monitor import config
from topowatch_monitor.cli import main
from topowatch_monitor.commands.compare import differences
from topowatch_monitor.engine.run_state import RunState
from topowatch_monitor.export.fleet import IngestSummary, unseen
from topowatch_monitor.export.run_table import RunTable
from topowatch_monitor.simulate import RunPlan, descriptor, synthetic_run
from topowatch_monitor.store.disk import OsDisk
from topowatch_monitor.store.log import Log, Record
from topowatch_monitor.store.recording import write_recording
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2, sample_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMANDS = (
    "serve",
    "demo",
    "runs",
    "show",
    "classes",
    "compare",
    "classify",
    "simulate",
    "replay",
    "export",
    "sync",
    "forward",
    "doctor",
    "config",
)
CLOSED = "http://127.0.0.1:1"
Run = Callable[..., tuple[int, str, str]]  # arguments to (exit status, standard output, standard error)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process."""
    monkeypatch.setenv("COLUMNS", "140")

    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def records_of(plan: RunPlan, incarnation: int = 1, start_step: int = 0, first_seq: int = 0) -> list[Record]:
    """What a daemon would log of the run."""
    described = descriptor(plan, incarnation=incarnation, started_at=1000.0)
    described.start_step = start_step
    opened = log_pb2.RunOpened(descriptor=described)
    opened.received_at.FromSeconds(1000)
    records = [Record(0, LogKind.RUN_OPENED, opened.SerializeToString())]
    for number, item in enumerate(synthetic_run(plan, started_at=1000.0)):
        stored = log_pb2.StoredItem(key=described.key, incarnation=incarnation, seq=first_seq + number, item=item)
        stored.received_at.FromSeconds(1001 + number)
        records.append(Record(number + 1, LogKind.STORED_ITEM, stored.SerializeToString()))
    return records


def state_of(plan: RunPlan, records: list[Record]) -> RunState:
    state = RunState(plan.tenant, plan.group, plan.run)
    for record in records:
        state.apply(record.kind, record.payload)
    return state


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.close()


def view(run: str = "a", group: str = "g", **changes: Any) -> Any:
    made = unseen(IngestSummary(tenant="", group=group, run=run, samples=0, last_received_at=1095.0))
    return {**made, "step": 40, "samples": 10, "loss": 0.5, **changes}


# Help


def test_help_lists_every_command(run: Run):
    status, out, _ = run("--help")
    assert status == 0
    for command in COMMANDS:
        assert f" {command} " in out


@pytest.mark.parametrize("command", [*(name for name in COMMANDS[:10] if name != "demo"), "config check"])
def test_each_commands_help_has_an_example(run: Run, command: str):
    status, out, _ = run(*command.split(), "--help")
    assert status == 0
    assert f"topowatch {command}" in out.replace(f"Usage: topowatch {command}", "")


@pytest.mark.parametrize("arguments", [["bogus"], ["runs", "--bogus"], ["show"], ["serve", "--shards", "x"]])
def test_wrong_usage_ends_with_2_and_no_traceback(run: Run, arguments: list[str]):
    status, _, err = run(*arguments)
    assert status == 2
    assert "Traceback" not in err


def test_commands_load_no_web_server():
    """What a command shares with the HTTP face lies in a file of its own."""
    code = "import sys; from topowatch_monitor.commands.app import application; application()"
    code += "; sys.exit('starlette' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_command_that_asks_a_daemon_loads_no_mathematics_and_no_other_command():
    loaded = "import sys; from topowatch_monitor.cli import main; main(['runs', '--help'])"
    loaded += "; print(sorted({'numpy', 'pydantic_settings', 'topowatch_monitor.commands.serve'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", loaded], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version(run: Run):
    status, out, _ = run("--version")
    assert status == 0
    assert out.startswith("topowatch ")


# The base install


def in_base_install(*arguments: str) -> subprocess.CompletedProcess[str]:
    hidden = "import sys; sys.modules['typer'] = None; "
    code = hidden + f"from topowatch_monitor.cli import main; sys.exit(main({list(arguments)!r}))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_without_the_monitors_dependencies_a_command_says_what_to_install():
    done = in_base_install("runs")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'topowatch[monitor]'" in done.stderr


def test_without_them_help_still_shows_what_there_is():
    done = in_base_install("--help")
    assert done.returncode == 0
    for command in ("sync", "forward", "doctor", "pip install 'topowatch[monitor]'"):
        assert command in done.stdout


def test_a_defect_of_our_own_is_not_taken_for_a_missing_dependency(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "topowatch_monitor.commands.app", None)
    with pytest.raises(ModuleNotFoundError):
        main(["runs"])


@pytest.mark.parametrize("command", ["sync", "forward", "doctor"])
def test_the_clients_commands_are_passed_on(monkeypatch: pytest.MonkeyPatch, command: str):
    given: list[list[str]] = []
    fake = types.ModuleType("topowatch_client.cli")
    fake.main = lambda arguments: given.append(list(arguments)) or 7  # type: ignore[attr-defined] # a stand-in
    monkeypatch.setitem(sys.modules, "topowatch_client.cli", fake)
    assert main([command, "/spool", "--endpoint", "h:1"]) == 7
    assert given == [[command, "/spool", "--endpoint", "h:1"]]


# Reading from a daemon


@pytest.mark.parametrize("arguments", [["runs"], ["show", "a"], ["runs", "--json"]])
def test_a_daemon_that_is_not_there_gives_one_sentence(run: Run, arguments: list[str]):
    status, out, err = run(*arguments, "--url", CLOSED)
    assert (status, out) == (2, "")
    assert (
        err == f"error: no daemon answers at {CLOSED}: start one with `topowatch serve`, or name another with --url\n"
    )


@pytest.mark.parametrize("url", ["localhost:7071", "http://[::1", "http://host:99999", "http://", "http://a\tb\x01"])
def test_an_address_that_is_none_is_explained(run: Run, url: str):
    status, out, err = run("runs", "--url", url)
    assert (status, out) == (2, "")
    assert err.startswith("error: --url ")
    assert "http://127.0.0.1:7071" in err


def run_into(output: Any, served: Served, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "topowatch_monitor.cli", *arguments, "--url", served.url]
    return subprocess.run(
        command, stdout=output, stderr=subprocess.PIPE, check=False, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("arguments", [["runs"], ["runs", "--json"], ["show", "a"]])
def test_a_full_device_gives_one_sentence(served: Served, arguments: list[str]):
    served.fleet.update([view("a")])
    with Path("/dev/full").open("wb") as full:
        done = run_into(full, served, *arguments)
    assert (done.returncode, done.stderr) == (1, b"error: No space left on device\n")


def test_a_reader_that_went_away_is_no_error(served: Served):
    served.fleet.update([view("a")])
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run_into(writing, served, "runs", "--json")
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_an_encoding_that_cannot_write_the_output_gives_one_sentence(served: Served):
    served.fleet.update([view("日本語")])
    done = run_into(subprocess.PIPE, served, "runs", PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert done.stderr == b"error: the output has characters that ascii cannot write: set PYTHONIOENCODING=utf-8\n"


@pytest.mark.parametrize("name", ["a/b", "..", ".", "", "a b?c#d"])
def test_a_run_that_cannot_be_is_said_not_to_be(run: Run, served: Served, name: str):
    status, out, err = run("show", name, "--url", served.url)
    assert (status, out) == (1, "")
    assert (
        err == f"error: no run {name!r} is known to the daemon at {served.url}: `topowatch runs` lists those that are\n"
    )


def test_runs_shows_a_table_and_json(run: Run, served: Served):
    flag = {"detector": "loss_rise", "severity": "critical", "since_step": 3, "reason": "because"}
    served.fleet.update([view("calm"), view("[bold]wild[/bold]", flags=[flag], loss=2.5)])
    status, out, _ = run("runs", "--url", served.url)
    assert status == 0
    assert "group g" in out
    assert "✓ healthy" in out
    assert "▲ unstable" in out
    assert "loss rise" in out
    assert "[bold]wild[/bold]" in out
    status, out, _ = run("runs", "--url", served.url, "--json")
    assert [one["run"] for one in json.loads(out)["runs"]] == ["[bold]wild[/bold]", "calm"]


def test_runs_of_an_empty_daemon_say_how_to_begin(run: Run, served: Served):
    status, out, _ = run("runs", "--url", served.url)
    assert status == 0
    assert "attach" in out


def test_show_lays_out_everything_with_reasons(run: Run, served: Served):
    flag = {"detector": "loss_rise", "severity": "critical", "since_step": 1234, "reason": "0.5 above [its] minimum"}
    served.fleet.update(
        [view(flags=[flag], scalars={"lr": 0.001}, overhead_ratio=0.003, interval=8, results={"accuracy": 0.97})]
    )
    status, out, _ = run("show", "a", "--url", served.url)
    assert status == 0
    for words in ("since step 1,234: 0.5 above [its] minimum", "lr", "0.001", "0.30 %", "every 8 steps", "0.97"):
        assert words in out
    status, out, _ = run("show", "a", "--url", served.url, "--json")
    assert json.loads(out)["flags"] == [flag]


def test_show_tells_when_flags_went_on_and_off_newest_last(run: Run, served: Served):
    event = {"detector": "loss_rise", "severity": "critical", "reason": "0.5 above [its] minimum", "superseded": False}
    events = [{**event, "step": 10 * step, "on": step % 2 == 0} for step in range(30)]
    events[28] |= {"superseded": True}
    earlier = view("earlier")
    del earlier["events"]
    served.fleet.update([view(events=events), view("calm"), earlier])
    status, out, _ = run("show", "a", "--url", served.url)
    assert status == 0
    told = out[out.index("Events") : out.index("Path of the weights")].splitlines()
    assert "10 earlier" in told[0]
    assert [line.split()[1] for line in told if "step" in line] == [str(10 * step) for step in range(10, 30)]
    assert "on   loss rise  0.5 above [its] minimum  superseded by a later start" in told[-3]
    assert told[-2].split() == ["step", "290", "off", "loss", "rise"]
    assert json.loads(run("show", "a", "--url", served.url, "--json")[1])["events"] == events
    for name in ("calm", "earlier"):
        status, out, _ = run("show", name, "--url", served.url)
        assert (status, "Events" in out) == (0, False)


def test_show_says_what_a_later_start_superseded(run: Run, served: Served):
    """A daemon of an earlier version does not say, and where there is nothing nothing is said."""
    one = view("plain")
    one.pop("superseded", None)
    served.fleet.update([one, view("none", superseded=0), view("again", superseded=1234)])
    for name in ("plain", "none"):
        status, out, _ = run("show", name, "--url", served.url)
        assert status == 0
        assert "superseded" not in out
    status, out, _ = run("show", "again", "--url", served.url)
    assert "1,234 of them superseded by a later start" in out


def test_show_tells_the_shape_of_the_path_and_leaves_out_what_an_earlier_daemon_does_not_say(run: Run, served: Served):
    known = view("new")
    sums = {"0.5": 6.0, "1": 14.0, "2": 98.0}
    shape = {"dimension": 1.25, "dimension_lower": 1.125, "dimension_upper": 1.5, "magnitude": 2.75, "e_alpha": sums}
    known["path"] |= shape | {"betti_drift": 0.03125, "betti_drift_wasserstein": 0.0625}
    known["loss_path"] = {"dimension": 2.25, "lower": 2.125, "upper": None, "points": 77, "e_alpha": None}
    earlier = view("old")
    earlier["path"] = {name: earlier["path"][name] for name in earlier["path"].keys() - shape.keys() - {"betti_drift"}}
    earlier["path"]["dimension"] = 1.5
    del earlier["loss_path"]
    served.fleet.update([known, earlier])
    status, out, _ = run("show", "new", "--url", served.url)
    assert status == 0
    for words in (
        "1.25  (1.12 to 1.5)",
        "α=0.5: 6  α=1: 14  α=2: 98",
        "2.75",
        "0.03125",
        "0.0625",
        "probe losses",
        "77",
    ):
        assert words in out
    # The scrape needs what this daemon's own engine tells; only the terminal may meet an earlier one.
    status, out, _ = run("show", "old", "--url", served.url)
    assert status == 0
    assert "probe losses" not in out


def test_show_passes_the_daemons_answer_on(run: Run, served: Served):
    served.fleet.update([view("a", "g1"), view("a", "g2")])
    status, _, err = run("show", "a", "--url", served.url)
    assert status == 1
    assert "g1, g2" in err
    assert "--group" in err
    assert run("show", "a", "--group", "g2", "--url", served.url)[0] == 0
    status, _, err = run("show", "b", "--url", served.url)
    assert status == 1
    assert "no run 'b'" in err


# Settings


def test_config_check_shows_where_each_setting_comes_from(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TOPOWATCH_MONITOR_SHARDS", "5")
    file = tmp_path / "t.toml"
    file.write_text("ended_series_seconds = 60\n")
    status, out, _ = run("config", "check", str(file), "--json")
    assert status == 0
    settings = json.loads(out)["settings"]
    assert settings["shards"] == {"value": 5, "from": "environment TOPOWATCH_MONITOR_SHARDS"}
    assert settings["ended_series_seconds"] == {"value": 60.0, "from": f"file {file}"}
    assert settings["grpc"] == {"value": "127.0.0.1:7070", "from": "default"}
    status, out, _ = run("config", "check", str(file))
    assert status == 0
    assert "TOPOWATCH_MONITOR_SHARDS" in out


def test_config_check_shows_the_thresholds_that_are_not_the_defaults(run: Run, tmp_path: Path):
    file = tmp_path / "t.toml"
    file.write_text("[detect.loss_rise]\nalarm = 30\nclip = 4\n")
    status, out, _ = run("config", "check", str(file))
    assert status == 0
    assert "detect.loss_rise.alarm" in out
    assert "detect.loss_rise.clip" not in out
    settings = json.loads(run("config", "check", str(file), "--json")[1])["settings"]
    assert settings["detect.loss_rise.alarm"] == {"value": 30.0, "from": f"file {file}"}
    assert settings["detect.loss_rise.share"] == {"value": 0.05, "from": "default"}
    listed = tmp_path / "listed.toml"
    listed.write_text(run("config", "check", str(file), "--toml")[1])
    assert config.load(file=listed).settings == config.load(file=file).settings
    assert run("config", "check", "--toml", "--json")[0] == 2


def test_config_check_and_serve_name_a_wrong_setting(run: Run, tmp_path: Path):
    file = tmp_path / "t.toml"
    file.write_text("shard = 60\n")
    status, out, err = run("config", "check", str(file))
    assert (status, out) == (1, "")
    assert "did you mean shards" in err
    status, out, _ = run("config", "check", str(file), "--json")
    assert status == 1
    assert "did you mean shards" in json.loads(out)["error"]
    status, _, err = run("serve", "--config", str(file))
    assert status == 2
    assert "did you mean shards" in err


def test_serve_hands_the_settings_to_the_daemon(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    given: list[Any] = []
    fake = types.ModuleType("topowatch_monitor.serve")
    fake.run = lambda settings: given.append(settings) or 3  # type: ignore[attr-defined] # a stand-in
    monkeypatch.setitem(sys.modules, "topowatch_monitor.serve", fake)
    flags = ("--data-dir", str(tmp_path), "--grpc", "[::1]:0", "--engine", "inline", "--shards", "4")
    assert run("serve", *flags)[0] == 3
    [settings] = given
    assert (settings.data_dir, str(settings.grpc), settings.engine, settings.shards) == (
        tmp_path,
        "[::1]:0",
        "inline",
        4,
    )


@pytest.mark.parametrize("version", [(3, 13, 0), (3, 14, 2)])
def test_serve_refuses_a_python_that_giotto_tda_has_no_wheels_for(
    run: Run, monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...]
):
    monkeypatch.setitem(sys.modules, "topowatch_monitor.serve", None)
    monkeypatch.setattr("topowatch_monitor.commands.serve.sys", types.SimpleNamespace(version_info=version))
    status, out, err = run("serve", "--engine", "inline")
    assert (status, out) == (2, "")
    assert err == "error: the daemon needs Python 3.10 to 3.12: giotto-tda has no wheels for later ones\n"


# Simulation


def test_simulate_without_a_daemon_gives_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("topowatch_monitor.commands.sending.CONNECT_SECONDS", 0.2)
    status, _, err = run("simulate", "--endpoint", "127.0.0.1:1")
    assert status == 2
    assert "topowatch serve" in err
    assert "Traceback" not in err


# Recordings and exports


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    file = tmp_path / "a.twrun"
    write_recording(file, records_of(RunPlan(run="a", group="g", samples=40, probes=4)))
    return file


def test_replay_shows_the_state_that_the_recording_implies(run: Run, recording: Path):
    status, out, _ = run("replay", str(recording), "--json")
    assert status == 0
    replayed = json.loads(out)["view"]
    assert (replayed["run"], replayed["step"], replayed["samples"], replayed["state"]) == ("a", 159, 40, "ended")
    status, out, _ = run("replay", str(recording))
    assert status == 0
    assert "Path of the weights" in out


def test_replay_verifies_against_a_restore_and_a_daemon(run: Run, recording: Path, served: Served):
    plan = RunPlan(run="a", group="g", samples=40, probes=4)
    served.fleet.update([state_of(plan, records_of(plan)).view()])
    status, out, _ = run("replay", str(recording), "--verify", "--url", served.url)
    assert status == 0, out
    assert out.count("the same state from 42 records") == 2


def test_replay_tells_what_differs_and_fails(run: Run, recording: Path, served: Served):
    plan = RunPlan(run="a", group="g", samples=40, probes=4)
    right = state_of(plan, records_of(plan)).view()
    served.fleet.update([{**right, "step": 158, "path": {**right["path"], "length": right["path"]["length"] * 1.001}}])
    status, out, _ = run("replay", str(recording), "--verify", "--url", served.url)
    assert status == 1
    assert "2 fields differ" in out
    assert "path.length" in out
    status, out, _ = run("replay", str(recording), "--verify", "--url", served.url, "--json")
    assert status == 1
    found = json.loads(out)["differences"]
    assert [one["field"] for one in found[f"daemon at {served.url}"]] == ["path.length", "step"]
    assert found["snapshot and restore half way"] == []


def test_replay_looks_as_far_as_the_daemon_was_told_to(run: Run, recording: Path, tmp_path: Path):
    file = tmp_path / "t.toml"
    file.write_text("path_window = 8\n")
    _, out, _ = run("replay", str(recording), "--config", str(file), "--verify", "--json")
    answer = json.loads(out)
    assert answer["view"]["path"]["points"] == 8
    assert answer["differences"] == {"snapshot and restore half way": []}


def test_replay_can_verify_one_run_of_several(run: Run, tmp_path: Path):
    file = tmp_path / "two.twrun"
    plans = [RunPlan(run=name, group="g", samples=3) for name in ("a", "b")]
    write_recording(file, [record for plan in plans for record in records_of(plan)])
    status, _, err = run("replay", str(file), "--verify")
    assert status == 2
    assert "a, b" in err
    status, out, _ = run("replay", str(file), "--run", "b", "--json")
    assert json.loads(out)["view"]["samples"] == 3


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), (b"nonsense", "not a topowatch recording"), (b"TOPOSEG1", "no run")]
)
def test_a_file_that_is_no_recording_is_said_to_be(run: Run, tmp_path: Path, content: bytes | None, words: str):
    file = tmp_path / "x.twrun"
    if content is not None:
        file.write_bytes(content)
    status, _, err = run("replay", str(file))
    assert status in {1, 2}
    assert words in err
    assert "Traceback" not in err


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory with runs a (in two groups) and b."""
    log = Log.open(tmp_path / "data" / "log", OsDisk())
    for name, group in (("a", "g1"), ("a", "g2"), ("b", "g1")):
        records = records_of(RunPlan(run=name, group=group, samples=5))
        log.append([(record.kind, record.payload) for record in records])
    log.close()
    return tmp_path / "data"


def test_an_exported_recording_replays_to_the_same_state(run: Run, data_dir: Path, tmp_path: Path):
    file = tmp_path / "b.twrun"
    status, out, err = run("export", "b", str(file), "--data-dir", str(data_dir))
    assert status == 0, err
    assert "7 records" in out
    status, out, _ = run("replay", str(file), "--json")
    plan = RunPlan(run="b", group="g1", samples=5)
    expected = state_of(plan, records_of(plan)).view()
    assert differences(json.loads(out)["view"], json.loads(json.dumps(expected))) == []


def test_an_exported_table_has_scalars_at_every_step_and_weights_at_samples(run: Run, data_dir: Path, tmp_path: Path):
    file = tmp_path / "b.parquet"
    assert run("export", "b", str(file), "--data-dir", str(data_dir))[0] == 0
    table = pq.read_table(file)
    assert table.column("step").to_pylist() == list(range(20))
    assert table.column("loss").null_count == 0
    weights = table.column("weights").to_pylist()
    assert [step for step, value in enumerate(weights) if value is not None] == [3, 7, 11, 15, 19]
    assert {len(value) for value in weights if value is not None} == {1021}
    assert json.loads(table.schema.metadata[b"topowatch"])["run"] == "b"


def test_export_explains_what_it_cannot_do(run: Run, data_dir: Path, tmp_path: Path):
    where = ("--data-dir", str(data_dir))
    status, _, err = run("export", "a", str(tmp_path / "a.twrun"), *where)
    assert status == 1
    assert "g1, g2" in err
    assert run("export", "a", str(tmp_path / "a.twrun"), "--group", "g2", *where)[0] == 0
    status, _, err = run("export", "zzz", str(tmp_path / "z.twrun"), *where)
    assert status == 1
    assert "no run 'zzz'" in err
    status, _, err = run("export", "b", str(tmp_path / "b.csv"), *where)
    assert status == 2
    assert ".parquet" in err
    status, _, err = run("export", "b", str(tmp_path / "missing" / "b.twrun"), *where)
    assert status == 1
    assert "cannot write" in err
    status, _, err = run("export", "b", str(tmp_path / "b.twrun"), "--data-dir", str(tmp_path / "none"))
    assert status == 2
    assert "--data-dir" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.twrun", "data"]


def test_a_table_leaves_out_what_a_later_life_superseded():
    """A job that resumed at step 8 supersedes the first life's steps from there on."""
    plan = RunPlan(run="a", group="g", samples=4, dimension=8)
    first = records_of(plan, incarnation=1)
    again = records_of(RunPlan(run="a", group="g", samples=4, dimension=8, seed=9), incarnation=2, start_step=8)
    table = RunTable().add([*first, *again]).table()
    steps = table.column("step").to_pylist()
    assert steps == list(range(16))
    loss = dict(zip(steps, table.column("loss").to_pylist(), strict=True))
    one, two = (RunTable().add(records).table().column("loss").to_pylist() for records in (first, again))
    assert [loss[step] for step in range(8)] == one[:8]
    assert [loss[step] for step in range(8, 16)] == two[-8:]
    assert one[8:] != two[-8:]


def test_a_table_adds_up_the_parts_of_a_sharded_model():
    """Ranks have incarnations of their own; a step at which a part is missing has no weights."""
    records = []
    for rank, steps in ((0, (3, 7)), (1, (3,))):
        described = descriptor(RunPlan(run="a", group="g", dimension=2), incarnation=100 + rank)
        described.rank, described.world_size, described.contributing_ranks = rank, 2, 2
        records.append(Record(0, LogKind.RUN_OPENED, log_pb2.RunOpened(descriptor=described).SerializeToString()))
        for step in steps:
            sketch = sample_pb2.Sketch(values=np.array([1.0 + rank, step], "<f4").tobytes())
            item = sample_pb2.Item(schema=1, sample=sample_pb2.Sample(step=step, weights=sketch))
            stored = log_pb2.StoredItem(
                key=described.key, rank=rank, incarnation=100 + rank, seq=step, item=item.SerializeToString()
            )
            records.append(Record(0, LogKind.STORED_ITEM, stored.SerializeToString()))
    table = RunTable().add(records).table()
    assert table.column("step").to_pylist() == [3, 7]
    assert table.column("weights").to_pylist() == [[3.0, 6.0], None]


# Comparing


@pytest.mark.parametrize(
    ("first", "second", "fields"),
    [
        ({"a": 1, "b": [1.0, {"c": "x"}]}, {"a": 1, "b": [1.0 + 1e-9, {"c": "x"}]}, []),
        ({"a": 1.0}, {"a": 1.00001}, ["a"]),
        ({"a": 1}, {"a": 2}, ["a"]),
        ({"a": math.nan}, {"a": math.nan}, []),
        ({"a": math.nan}, {"a": None}, ["a"]),
        ({"a": True}, {"a": 1}, ["a"]),
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": 1}, {}, ["a"]),
        ({"a": [1, 2]}, {"a": [1]}, ["a"]),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}]}, ["a[0].b"]),
        ({"a": "1"}, {"a": 1.0}, ["a"]),
        ({"a": 0.0}, {"a": 1e-300}, ["a"]),
    ],
)
def test_differences_are_exact_for_what_is_discrete(first: Any, second: Any, fields: list[str]):
    assert [one.field for one in differences(first, second)] == fields
