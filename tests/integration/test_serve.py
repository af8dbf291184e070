"""Starting, refusing to start, stopping, and reading back what a daemon holds."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from certificates import Authority
from harness import Daemon, eventually, topowatch
from sender import Sender

if TYPE_CHECKING:
    from collections.abc import Callable

CANNOT_START = 2
DAY = 86_400.0

# Under these, any run counts as one whose loss does not come down.
STRICT = """
[detect.loss_not_decreasing]
patience = 1
minimum_values = 1
share = 1.0
chance_share = 1e-9
"""


def refused(*flags: str) -> str:
    """What `topowatch serve` says when it does not start."""
    done = topowatch("serve", "--engine", "inline", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", *flags)
    assert done.returncode == CANNOT_START
    assert "Traceback" not in done.stderr
    assert "ready" not in done.stdout
    return done.stderr


def test_an_unwritable_data_directory_is_refused_in_words(tmp_path: Path) -> None:
    """A file stands where the directory should be: that stops root as well."""
    (tmp_path / "file").touch()
    said = refused("--data-dir", str(tmp_path / "file" / "data"))
    assert str(tmp_path / "file" / "data") in said


def test_a_port_in_use_is_refused_in_words(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for flag in ("--grpc", "--http"):
            said = refused("--data-dir", str(tmp_path / "data"), flag, address)
            assert address in said
            assert "in use" in said


def test_a_daemon_tells_the_room_on_its_disk_its_shards_and_its_answers(inline_daemon: Daemon) -> None:
    size = shutil.disk_usage(inline_daemon.data_dir).total
    assert inline_daemon.metric("topowatch_disk_size_bytes") == size
    assert 0 < inline_daemon.metric("topowatch_disk_free_bytes") < size
    assert inline_daemon.metric("topowatch_shards_wanted") == inline_daemon.metric("topowatch_shards") == 1
    sender = Sender(inline_daemon.grpc, "r")
    sender.push_until_stored(sender.batch(2))
    sender.close()
    assert inline_daemon.metric("topowatch_acks_total", status="stored") > 0
    assert inline_daemon.metric("topowatch_acks_total", status="unavailable") == 0


def test_a_daemon_with_tls_tells_when_its_certificate_ends(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    pair = authority.sign("daemon", days=30)
    daemon = make_daemon("--engine", "inline", "--tls-cert", str(pair.certificate), "--tls-key", str(pair.key))
    context = ssl.create_default_context(cafile=authority.pair.certificate)
    text = httpx.get(f"https://{daemon.http}/metrics", verify=context, timeout=10.0).raise_for_status().text
    [told] = re.findall(r"^topowatch_certificate_expiry_timestamp_seconds (\S+)$", text, re.MULTILINE)
    assert 29 * DAY < float(told) - time.time() < 31 * DAY


def test_a_second_daemon_on_a_data_directory_is_refused_and_harms_nothing(inline_daemon: Daemon) -> None:
    said = refused("--data-dir", str(inline_daemon.data_dir))
    assert str(inline_daemon.data_dir) in said
    sender = Sender(inline_daemon.grpc, "run")
    sender.push_until_stored(sender.batch(5))
    sender.close()


def test_an_unknown_config_key_is_refused_and_the_nearest_one_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("path_windw = 100\n")
    said = refused("--data-dir", str(tmp_path / "data"), "--config", str(tmp_path / "config.toml"))
    assert "path_windw" in said
    assert "path_window" in said


def test_a_stopped_daemon_saves_its_state_and_goes_on_from_there(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon("--engine", "inline")
    sender = Sender(daemon.grpc, "run")
    sender.push_until_stored(sender.batch(40))
    before = eventually(lambda: (found := daemon.run("run"))["step"] == 39 and found)
    assert daemon.stop() == 0
    assert list((daemon.data_dir / "snapshots").iterdir())
    daemon.start()
    sender.push_until_stored(sender.batch(10))
    after = eventually(lambda: (found := daemon.run("run"))["step"] == 49 and found)
    assert after["samples"] == 50
    assert after["path"]["points"] == 50
    assert after["path"]["length"] > before["path"]["length"]
    sender.close()


@pytest.mark.slow
def test_the_engine_host_is_started_again_when_it_is_killed(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon("--engine", "ray", "--shards", "1")
    sender = Sender(daemon.grpc, "run")
    sender.push_until_stored(sender.batch(20))
    eventually(lambda: daemon.run("run")["step"] == 19, within=90)
    assert daemon.process is not None
    [host] = [
        child
        for child in psutil.Process(daemon.process.pid).children()
        if "topowatch_monitor.engine.host" in child.cmdline()
    ]
    host.suspend()  # so that what the front tells it is unread when it dies: the hard way to lose a peer
    sender.push_until_stored(sender.batch(20))
    host.kill()
    assert httpx.get(f"http://{daemon.http}/-/ready").status_code == 200
    eventually(lambda: daemon.run("run")["step"] == 39, within=120)
    sender.close()


@pytest.mark.parametrize("engine", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_thresholds_reach_the_shards_and_other_ones_judge_all_runs_anew(
    make_daemon: Callable[..., Daemon], tmp_path: Path, engine: str
) -> None:
    config, recording = tmp_path / "config.toml", str(tmp_path / "run.twrun")
    config.write_text(STRICT)
    daemon = make_daemon("--engine", engine, "--shards", "1", "--config", str(config))
    sender = Sender(daemon.grpc, "run")
    sender.push_until_stored(sender.batch(120))
    sender.close()
    told = eventually(lambda: (found := daemon.run("run"))["step"] == 119 and found, within=90)
    assert [flag["detector"] for flag in told["flags"]] == ["loss_not_decreasing"]
    [event] = [event for event in told["events"] if event["detector"] == "loss_not_decreasing"]
    assert event["step"] == told["flags"][0]["since_step"]
    assert topowatch("export", "run", recording, "--data-dir", str(daemon.data_dir)).returncode == 0
    verify = ("replay", recording, "--verify", "--url", f"http://{daemon.http}")
    done = topowatch(*verify, "--config", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    done = topowatch(*verify)
    assert done.returncode == 1, "the daemon has other thresholds, and --verify has to say so"
    assert "events" in done.stdout
    assert daemon.stop() == 0
    config.write_text("")
    daemon.start()
    told = eventually(lambda: (found := daemon.run("run"))["step"] == 119 and found, within=90)
    assert told["flags"] == []
    assert "loss_not_decreasing" not in {event["detector"] for event in told["events"]}


def test_a_recorded_run_is_replayed_to_the_same_state(inline_daemon: Daemon, tmp_path: Path) -> None:
    sender = Sender(inline_daemon.grpc, "run")
    sender.push_until_stored(sender.batch(80))
    eventually(lambda: inline_daemon.run("run")["step"] == 79)
    file = str(tmp_path / "run.twrun")
    done = topowatch("export", "run", file, "--data-dir", str(inline_daemon.data_dir))
    assert done.returncode == 0, done.stderr
    done = topowatch("replay", file, "--verify", "--url", f"http://{inline_daemon.http}", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)
    sender.push_until_stored(sender.batch(1))
    eventually(lambda: inline_daemon.run("run")["step"] == 80)
    done = topowatch("replay", file, "--verify", "--url", f"http://{inline_daemon.http}")
    assert done.returncode == 1, "the daemon has gone on, and --verify has to say so"
    assert "step" in done.stdout
    Path(file).write_bytes(Path(file).read_bytes()[:-20])
    done = topowatch("replay", file)
    assert done.returncode == CANNOT_START
    assert "torn or damaged" in done.stderr
    sender.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_data_directory_is_refused_in_words(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert str(tmp_path) in refused("--data-dir", str(tmp_path / "data"))
