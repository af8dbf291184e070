"""A Ray cluster of several nodes on this machine that loses nodes, gains some and has its head replaced, under load."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from harness import Daemon, eventually, unavailable
from ray_cluster import Network, RayCluster, token
from sender import Sender
from topowatch_protos.v1 import sample_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GROUP = "sweep"
ENDED, LIVE = 13, 6
# What the clock, the front's own counts or the other runs of the group say; all else is a matter of the samples alone.
NOT_OF_THE_SAMPLES = {
    "started_at", "last_received_at", "longest_pause", "path_class", "forecast", "verdict", "state"
}  # fmt: skip
EVERY_SECOND = "atlas_seconds = 1.0\n"

# What a node's Python does at its start, in the place of another installation.
LACKING = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "topowatch_monitor":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""
OLDER = """
import importlib.metadata

importlib.metadata.version = lambda name, version=importlib.metadata.version: (
    "0.0.1" if name == "topowatch" else version(name)
)
"""

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.timeout(600)]


@pytest.fixture
def network() -> Iterator[Network]:
    # In a namespace of its own, which goes with it: what it leaves behind needs no cleaning up.
    attempt = ["unshare", "--net", "ip", "link", "add", "attempt", "type", "bridge"]
    if subprocess.run(attempt, capture_output=True, check=False).returncode != 0:
        unavailable("networks of their own need root with CAP_NET_ADMIN and CAP_SYS_ADMIN, and the program ip")
    one = Network()
    yield one
    one.close()


@pytest.fixture
def cluster(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayCluster]:
    """A cluster without nodes as yet; its head is to stand in the test's network, if it has one."""
    for name, value in token().items():
        monkeypatch.setenv(name, value)
    apart: Network | None = request.getfixturevalue("network") if "network" in request.fixturenames else None
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as directory:
        one = RayCluster(Path(directory), "127.0.0.1" if apart is None else apart.host)
        yield one
        one.close()


@pytest.fixture
def join(cluster: RayCluster, make_daemon: Callable[..., Daemon], tmp_path: Path) -> Callable[..., Daemon]:
    """Start a daemon that joins the cluster."""

    def start(*flags: str, settings: str = "") -> Daemon:
        config = tmp_path / "topowatch.toml"
        config.write_text(EVERY_SECOND + settings)
        return make_daemon("--ray-address", cluster.address, "--config", str(config), *flags)

    return start


class Load:
    """Runs of one group that send all the while, beside siblings that have ended."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        for number in range(ENDED):
            sibling = Sender(daemon.grpc, f"ended-{number:02d}", seed=number, group=GROUP)
            batch = sibling.batch(30)
            end = sample_pb2.Item(schema=1, end=sample_pb2.RunEnd(results={"acc": 0.5 + number / 100}))
            batch.items.add(seq=30, item=end.SerializeToString())
            sibling.push_until_stored(batch)
            sibling.close()
        self.senders = [Sender(daemon.grpc, f"live-{number}", seed=100 + number, group=GROUP) for number in range(LIVE)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        while not self._stop.wait(0.2):
            for sender in self.senders:
                sender.push_until_stored(sender.batch(2))

    @property
    def acked(self) -> int:
        return sum(len(sender.acked) for sender in self.senders)

    def analysed(self) -> int:
        listed = self.daemon.get("/api/v1/runs")["runs"]
        return int(sum(run["analysed"] for run in listed if run["run"].startswith("live")))

    def goes_on(self, within: float = 120.0) -> float:
        """Wait until all that is acked by now is analysed; return the seconds that took."""
        began, wanted = time.monotonic(), self.acked
        eventually(lambda: self.analysed() >= wanted, within=within)
        return time.monotonic() - began

    def compared(self) -> bool:
        """Whether every live run is told what its siblings say of it."""
        told = self.daemon.get(f"/api/v1/groups/{GROUP}/classes")
        runs = [self.daemon.run(sender.key.run) for sender in self.senders]
        forecast = all(run["forecast"]["metric"] == "acc" or run["forecast"]["reason"] for run in runs)
        placed = all(run["path_class"]["provisional"] or run["path_class"]["abstained"] for run in runs)
        return bool(told["fits"] >= 1 and forecast and placed)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def load() -> Iterator[Callable[[Daemon], Load]]:
    begun: list[Load] = []

    def begin(daemon: Daemon) -> Load:
        begun.append(Load(daemon))
        return begun[-1]

    yield begin
    for one in begun:
        one.stop()
        for sender in one.senders:
            sender.close()


def assert_nothing_lost(load: Load, make_daemon: Callable[..., Daemon]) -> None:
    """Every acked sample counts once, and each run is what a daemon without Ray makes of the same samples."""
    load.stop()
    load.goes_on()
    plain = make_daemon("--engine", "inline", name="plain")
    for sender in load.senders:
        twin = Sender(plain.grpc, sender.key.run, seed=int(sender.descriptor.labels["seed"]), group=GROUP)
        twin.push_until_stored(twin.batch(len(sender.acked)))
        twin.close()
    for sender in load.senders:
        sent = len(sender.acked)
        assert sender.acked == list(range(sent))
        expected = eventually(
            lambda sender=sender, sent=sent: (run := plain.run(sender.key.run))["analysed"] == sent and run
        )
        found = load.daemon.run(sender.key.run)
        assert (found["samples"], found["analysed"]) == (sent, sent)
        assert_equal(found, expected)


def assert_equal(found: Any, expected: Any, where: str = "run") -> None:
    """Discrete values exactly, floats to 1e-6."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name in expected.keys() - NOT_OF_THE_SAMPLES:
            assert_equal(found[name], expected[name], f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_equal(one, other, f"{where}[{number}]")
    else:
        assert found == expected or found == pytest.approx(expected, rel=1e-6), where


def ready(daemon: Daemon) -> str:
    """What `/-/ready` says, which is that samples are taken, whatever becomes of Ray."""
    return httpx.get(f"http://{daemon.http}/-/ready", timeout=10.0).raise_for_status().text


def shards(daemon: Daemon, number: int, within: float = 120.0) -> None:
    eventually(lambda: daemon.metric("topowatch_shards") == number, within=within)


def test_a_node_that_is_killed_in_mid_run_costs_nothing_and_the_pool_shrinks_to_what_is_left(
    cluster: RayCluster, join: Callable[..., Daemon], load: Callable[[Daemon], Load], make_daemon: Callable[..., Daemon]
) -> None:
    cluster.head()
    node = cluster.join()
    daemon = join("--shards", "2")
    shards(daemon, 2)
    assert [each.shards for each in cluster.nodes] == [1, 1], "each node carries one"
    sent = load(daemon)
    sent.goes_on()
    eventually(sent.compared)
    node.kill()
    sent.goes_on()
    shards(daemon, 1)
    assert sent.compared()
    eventually(lambda: "1 of 2 shards have a place" in ready(daemon))
    assert "add a node" in ready(daemon)
    assert_nothing_lost(sent, make_daemon)
    assert daemon.metric("topowatch_shard_restarts_total") == 1


@pytest.mark.slow
def test_the_pool_grows_as_nodes_join_and_hands_over_before_one_that_is_drained_leaves(
    cluster: RayCluster, join: Callable[..., Daemon], load: Callable[[Daemon], Load], make_daemon: Callable[..., Daemon]
) -> None:
    cluster.head()
    daemon = join("--shards", "1", settings="most_shards = 3\n")
    shards(daemon, 1)
    sent = load(daemon)
    sent.goes_on()
    eventually(sent.compared)
    first, _ = cluster.join(), cluster.join()
    shards(daemon, 3)
    sent.goes_on()
    assert [node.shards for node in cluster.nodes] == [1, 1, 1]
    assert sent.compared()
    cluster.drain(first)
    shards(daemon, 2)
    eventually(lambda: first.shards == 0)  # a process that is told to end takes a moment
    first.kill()
    sent.goes_on()
    assert sent.compared()
    assert_nothing_lost(sent, make_daemon)
    assert daemon.metric("topowatch_shards") == 2
    assert daemon.metric("topowatch_shard_restarts_total") == 0, "all were handed over"


@pytest.mark.slow
def test_a_machine_whose_network_is_cut_costs_nothing(
    network: Network,
    cluster: RayCluster,
    join: Callable[..., Daemon],
    load: Callable[[Daemon], Load],
    make_daemon: Callable[..., Daemon],
) -> None:
    """Its processes live on, and neither they nor those that wait for them are told of anything."""
    cluster.head()
    cut, _ = (cluster.join(*network.machine()) for _ in range(2))
    daemon = join("--shards", "3")
    shards(daemon, 3)
    assert [node.shards for node in cluster.nodes] == [1, 1, 1]
    sent = load(daemon)
    sent.goes_on()
    eventually(sent.compared)
    network.cut(0)
    sent.goes_on()
    shards(daemon, 2)
    assert cut.shards == 1, "it is there and does not know"
    assert sent.compared()
    assert "does not answer" in (daemon.data_dir / "engine.log").read_text()
    assert_nothing_lost(sent, make_daemon)
    assert daemon.metric("topowatch_shard_restarts_total") == 1


@pytest.mark.slow
def test_a_head_that_is_lost_and_replaced_costs_nothing(
    cluster: RayCluster, join: Callable[..., Daemon], load: Callable[[Daemon], Load], make_daemon: Callable[..., Daemon]
) -> None:
    """The new head knows nothing of the cluster before, whose other node has to join it anew."""
    head = cluster.head()
    node = cluster.join()
    daemon = join("--shards", "2")
    shards(daemon, 2)
    sent = load(daemon)
    sent.goes_on()
    head.kill()
    eventually(lambda: "results come late" in ready(daemon), within=120)
    before = sent.acked
    eventually(lambda: sent.acked > before)
    node.kill()
    shards(daemon, 0)
    eventually(lambda: "there is no Ray cluster to join" in ready(daemon), within=120)
    cluster.head()
    shards(daemon, 1)
    cluster.join()
    shards(daemon, 2)
    sent.goes_on()
    assert_nothing_lost(sent, make_daemon)
    assert ready(daemon) == "topowatch is ready\n"


@pytest.mark.slow
def test_a_node_that_cannot_carry_a_shard_is_named_with_what_to_do(
    cluster: RayCluster, join: Callable[..., Daemon], tmp_path: Path
) -> None:
    cluster.head(processors=0)
    daemon = join("--shards", "1")
    eventually(lambda: "0 of 1 shards have a place" in ready(daemon), within=120)
    assert "nodes: 1, CPUs: 0" in ready(daemon)
    bare, old = tmp_path / "bare", tmp_path / "old"
    for directory, code in ((bare, LACKING), (old, OLDER)):
        directory.mkdir()
        (directory / "sitecustomize.py").write_text(code)
    paths = os.environ.get("PYTHONPATH", "")
    first = cluster.join(settings={"PYTHONPATH": os.pathsep.join([str(bare), paths])})
    eventually(lambda: "topowatch is not installed there: install topowatch[monitor]==" in ready(daemon), within=120)
    first.kill()
    second = cluster.join(settings={"PYTHONPATH": os.pathsep.join([str(old), paths])})
    eventually(lambda: "topowatch 0.0.1 is installed there" in ready(daemon), within=120)
    second.kill()
    cluster.join()
    shards(daemon, 1)
    eventually(lambda: ready(daemon) == "topowatch is ready\n")


@pytest.mark.slow
def test_groups_are_compared_where_shards_are_though_a_node_without_topowatch_has_more_room(
    cluster: RayCluster, join: Callable[..., Daemon], load: Callable[[Daemon], Load], tmp_path: Path
) -> None:
    """Ray itself would give a job to the node with most of its CPUs free."""
    cluster.head()
    (tmp_path / "sitecustomize.py").write_text(LACKING)
    paths = os.environ.get("PYTHONPATH", "")
    cluster.join(processors=4, settings={"PYTHONPATH": os.pathsep.join([str(tmp_path), paths])})
    daemon = join("--shards", "1")
    shards(daemon, 1)
    sent = load(daemon)
    eventually(sent.compared, within=200)
