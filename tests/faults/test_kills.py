"""SIGKILL where it hurts: the daemon in mid-stream, a shard in mid-run, all of Ray for two minutes."""

from __future__ import annotations

import contextlib
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from harness import Daemon, eventually, free_port
from ray_cluster import token
from sender import Sender
from topowatch_monitor.engine.routing import shard_of_key, shards_of
from topowatch_monitor.engine.session import kill_session, members
from topowatch_monitor.engine.shard import Part, Shard
from topowatch_monitor.store.disk import OsDisk
from topowatch_monitor.store.reader import LogReader
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2, run_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from topowatch_monitor.store.log import Record

KILLS = int(os.environ.get("TOPOWATCH_TEST_KILLS", "8"))  # `make soak` asks for 200


def log_of(daemon: Daemon) -> list[Record]:
    return list(LogReader(daemon.data_dir / "log", OsDisk()).read(0, 1 << 62))


def stored_seqs(daemon: Daemon, run: str) -> list[int]:
    items = (log_pb2.StoredItem.FromString(r.payload) for r in log_of(daemon) if r.kind == LogKind.STORED_ITEM)
    return [item.seq for item in items if item.key.run == run]


def run_of(sender: Sender) -> run_pb2.RunKey:
    """The run's key as the daemon stores it."""
    return run_pb2.RunKey(tenant="default", group=sender.key.group, run=sender.key.run)


def twin_view(daemon: Daemon, sender: Sender) -> dict[str, Any]:
    """What a fresh shard makes of the same log."""
    number = shard_of_key(run_of(sender))
    records = [tuple(r) for r in log_of(daemon) if number in shards_of(r.kind, r.payload)]
    shard = Shard()
    shard.load(number, 1, 0, None)
    result = shard.apply([Part(number, 1, 0, records[-1][0] + 1, records)])
    assert not result.refused
    [view] = [view for view in result.views if view["run"] == sender.key.run]
    return dict(view)


def assert_same_state(seen: dict[str, Any], twin: dict[str, Any]) -> None:
    """Discrete fields exactly, floats to 1e-6; what the clock, the front and other runs add is left out."""
    assert twin["representation"] is not None
    for name in twin.keys() - {"path", "representation", "forecast"}:
        assert seen[name] == twin[name], name
    for name in twin["forecast"].keys() - {"reason"}:  # which tells how many siblings have ended
        assert seen["forecast"][name] == twin["forecast"][name], name
    for path in ("path", "representation"):
        for name, value in twin[path].items():
            found = seen[path][name]
            assert found == value or found == pytest.approx(value, rel=1e-6), f"{path}.{name}"


def test_every_acked_sample_is_there_once_after_the_daemon_is_killed_again_and_again(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon("--engine", "inline")
    senders = [Sender(daemon.grpc, f"run-{number}", seed=number) for number in range(3)]
    stop = threading.Event()

    def stream(sender: Sender) -> None:
        while not stop.is_set():
            sender.push_until_stored(sender.batch(7))

    threads = [threading.Thread(target=stream, args=(sender,)) for sender in senders]
    for thread in threads:
        thread.start()
    dice = random.Random(1)
    for _ in range(KILLS):
        before = sum(len(sender.acked) for sender in senders)
        eventually(lambda before=before: sum(len(sender.acked) for sender in senders) > before)
        time.sleep(dice.uniform(0.0, 0.3))  # somewhere in the stream, not at a chosen point
        daemon.kill()
        daemon.start()
    stop.set()
    for thread in threads:
        thread.join()
    for sender in senders:
        counts = Counter(stored_seqs(daemon, sender.key.run))
        assert set(sender.acked) <= counts.keys()
        assert set(counts.values()) == {1}
        eventually(lambda sender=sender, counts=counts: daemon.run(sender.key.run)["samples"] == len(counts))
        eventually(lambda sender=sender: daemon.run(sender.key.run)["step"] == max(sender.acked))
        assert_same_state(daemon.run(sender.key.run), twin_view(daemon, sender))
        sender.close()


def actors(daemon: Daemon) -> list[psutil.Process]:
    """The shard carriers' processes, which Ray names after their class."""
    assert daemon.process is not None
    found = []
    for child in psutil.Process(daemon.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.cmdline() and child.cmdline()[0].startswith("ray::Shard"):
                found.append(child)
    return found


@pytest.mark.xdist_group("ray")
def test_a_killed_shard_is_rebuilt_and_equals_an_undisturbed_twin(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon("--engine", "ray", "--shards", "2")
    senders = [Sender(daemon.grpc, f"run-{number}", seed=number) for number in range(5)]
    assert {shard_of_key(run_of(sender)) % 2 for sender in senders} == {0, 1}  # both actors have work

    def push(batches: int) -> None:
        for _ in range(batches):
            for sender in senders:
                sender.push_until_stored(sender.batch(25))

    def analysed() -> bool:
        return all(daemon.run(sender.key.run)["step"] == max(sender.acked) for sender in senders)

    push(8)
    eventually(analysed, within=90)
    for _ in range(2):
        victims = eventually(lambda: len(found := actors(daemon)) == 2 and found)
        push(2)
        for victim in victims:
            victim.kill()
        push(4)
        eventually(analysed, within=90)
    eventually(lambda: daemon.metric("topowatch_shard_restarts_total") >= 2)
    for sender in senders:
        assert_same_state(daemon.run(sender.key.run), twin_view(daemon, sender))
        sender.close()


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_no_process_is_left_when_the_daemon_is_stopped_or_killed(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon("--engine", "ray")
    eventually(lambda: len(actors(daemon)) == 2, within=90)
    for end in (daemon.stop, daemon.kill):
        assert daemon.process is not None
        family = psutil.Process(daemon.process.pid).children(recursive=True)
        assert len(family) > 2
        end()
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not alive
        if end == daemon.stop:
            daemon.start()
            eventually(lambda: len(actors(daemon)) == 2, within=90)


@pytest.mark.xdist_group("ray")
def test_a_daemon_that_is_stopped_while_ray_begins_leaves_no_process_and_no_word_of_trouble(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon("--engine", "ray")
    assert daemon.process is not None
    front, name = psutil.Process(daemon.process.pid), "topowatch_monitor.engine.host"
    [host] = eventually(lambda: [child for child in front.children() if name in child.cmdline()])
    eventually(lambda: len(members(host.pid)) > 3)  # parts of Ray
    assert daemon.stop() == 0
    eventually(lambda: not members(host.pid))
    for journal in (daemon.directory / "daemon.log", daemon.data_dir / "engine.log"):
        assert not re.search("WARN|ERROR|Traceback", journal.read_text()), journal.read_text()
    assert "ending a Ray" not in journal.read_text()  # it was not waited for until there is one


class Cluster:
    """A Ray head node as a stranger would start it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        ray = str(Path(sys.executable).with_name("ray"))
        head = ["start", "--head", "--block", "--port", str(self.port), "--node-ip-address", "127.0.0.1"]
        size = ["--num-cpus", "2", "--object-store-memory", str(100 << 20), "--include-dashboard", "false"]
        with (self.directory / "ray.log").open("ab") as journal:
            self.process = subprocess.Popen(
                [ray, *head, *size, "--disable-usage-stats"],
                stdin=subprocess.DEVNULL,
                stdout=journal,
                stderr=journal,
                start_new_session=True,
            )

    def gcs(self) -> psutil.Process | None:
        assert self.process is not None
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.name().startswith("gcs_server"):
                    return child
        return None

    def destroy(self) -> None:
        """Kill what is left of the cluster."""
        if self.process is not None:
            kill_session(self.process.pid)
            self.process.wait()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    for name, value in token().items():
        monkeypatch.setenv(name, value)
    one = Cluster(tmp_path)
    one.start()
    yield one
    one.destroy()


@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(420)
@pytest.mark.slow
def test_ingest_goes_on_while_all_of_ray_is_gone_and_the_engine_catches_up(
    cluster: Cluster, make_daemon: Callable[..., Daemon]
) -> None:
    """The GCS is killed, which takes the whole cluster down, for 120 s."""
    eventually(cluster.gcs, within=60)
    daemon = make_daemon("--engine", "ray", "--ray-address", cluster.address)
    sender = Sender(daemon.grpc, "run")
    sender.push_until_stored(sender.batch(50))
    eventually(lambda: daemon.run("run")["step"] == 49, within=120)

    gcs = cluster.gcs()
    assert gcs is not None
    gcs.kill()
    gone_at = time.monotonic()
    largest_lag = 0.0
    while time.monotonic() - gone_at < 120:
        sender.push_until_stored(sender.batch(5), within=5)
        assert httpx.get(f"http://{daemon.http}/-/ready").status_code == 200
        largest_lag = max(largest_lag, daemon.metric("topowatch_shard_lag_samples"))
        time.sleep(1.0)
    assert largest_lag >= 100
    assert daemon.run("run")["samples"] == len(sender.acked)
    cluster.destroy()

    cluster.start()
    eventually(lambda: daemon.run("run")["step"] == max(sender.acked), within=120)
    eventually(lambda: daemon.metric("topowatch_shard_lag_samples") == 0)
    assert_same_state(daemon.run("run"), twin_view(daemon, sender))
    sender.close()
