"""Ray nodes as strangers would start them: real processes, in network namespaces of their own if asked."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from harness import eventually, free_port
from topowatch_monitor.engine.session import kill_session, members

if TYPE_CHECKING:
    from collections.abc import Mapping

RAY = str(Path(sys.executable).with_name("ray"))
OBJECT_STORE_BYTES = 80_000_000  # Ray takes no less than 75 MB


class RayNode:
    """A node of a cluster: its processes are one session.

    Args:
        journal: file that takes what it prints.
        arguments: of `ray start`.
        settings: environment variables of its own.
        before: words before the command, such as `ip netns exec NAME`.
    """

    def __init__(
        self, journal: Path, *arguments: str, settings: Mapping[str, str] | None = None, before: tuple[str, ...] = ()
    ) -> None:
        size = ("--object-store-memory", str(OBJECT_STORE_BYTES), "--min-worker-port", "0", "--max-worker-port", "0")
        with journal.open("ab") as printed:
            self.process = subprocess.Popen(
                [*before, RAY, "start", "--block", "--disable-usage-stats", *size, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                start_new_session=True,
                env={**os.environ, "RAY_worker_niceness": "0", **(settings or {})},
            )

    def processes(self, name: str) -> list[psutil.Process]:
        """Those of it that run and are called so."""
        found = []
        for number in members(self.process.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(number)
                told = [process.name(), *process.cmdline()[:1]]
                if process.status() != psutil.STATUS_ZOMBIE and any(part.startswith(name) for part in told):
                    found.append(process)
        return found

    @property
    def shards(self) -> int:
        """Shard carriers that run on it."""
        return len(self.processes("ray::Shard"))

    def kill(self) -> None:
        """SIGKILL to all of it."""
        kill_session(self.process.pid)
        self.process.wait()


class Network:
    """Network namespaces on a bridge, each a machine of its own as far as Ray can tell; only root may make them."""

    def __init__(self) -> None:
        number = os.getpid() % 200
        self._name = f"tw{number}"
        self._net = f"10.231.{number}"
        self._machines: list[str] = []
        _ip("link", "add", self._name, "type", "bridge")
        _ip("addr", "add", f"{self.host}/24", "dev", self._name)
        _ip("link", "set", self._name, "up")

    @property
    def host(self) -> str:
        """Address of this machine in that network."""
        return f"{self._net}.1"

    def machine(self) -> tuple[str, tuple[str, ...]]:
        """Another machine: its address, and the words that run a command on it."""
        name = f"{self._name}-{len(self._machines)}"
        address = f"{self._net}.{len(self._machines) + 2}"
        _ip("netns", "add", name)
        self._machines.append(name)
        _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", name, "master", self._name, "up")
        for command in (
            ("addr", "add", f"{address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            _ip("-n", name, *command)
        return address, ("ip", "netns", "exec", name)

    def cut(self, number: int) -> None:
        """Take down the link of a machine, by the order in which they were made."""
        _ip("link", "set", self._machines[number], "down")

    def close(self) -> None:
        for name in self._machines:
            _ip("netns", "del", name)
        _ip("link", "del", self._name)


def _ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True, capture_output=True, timeout=30)


class RayCluster:
    """A head and nodes, which are started and killed as a test likes.

    Args:
        directory: for what they print and keep; its name has to be short, as sockets lie in it.
        host: address of the head.
    """

    def __init__(self, directory: Path, host: str = "127.0.0.1") -> None:
        self.directory = directory
        self.host = host
        self.port = free_port(host)
        self.nodes: list[RayNode] = []

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def head(self, *, processors: int = 1) -> RayNode:
        """Start a head, at the same address every time."""
        where = ("--head", "--port", str(self.port), "--include-dashboard", "false")
        return self._start(*where, "--temp-dir", str(self.directory / "ray"), host=self.host, processors=processors)

    def join(
        self,
        host: str | None = None,
        before: tuple[str, ...] = (),
        *,
        processors: int = 1,
        settings: Mapping[str, str] | None = None,
    ) -> RayNode:
        """Start another node: on this machine, or on that of `Network.machine`."""
        where = ("--address", self.address)
        return self._start(*where, host=host or self.host, before=before, processors=processors, settings=settings)

    def drain(self, node: RayNode) -> None:
        """Tell Ray that a node will leave within five minutes, as an autoscaler does before it takes one away."""
        [raylet] = node.processes("raylet")
        [key] = [word.partition("=")[2] for word in raylet.cmdline() if word.startswith("--node_id=")]
        why = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test")
        command = [RAY, "drain-node", "--address", self.address, "--node-id", key, *why]
        subprocess.run([*command, "--deadline-remaining-seconds", "300"], check=True, capture_output=True, timeout=120)

    def close(self) -> None:
        """Kill all of it."""
        for node in self.nodes:
            node.kill()

    def _start(
        self,
        *arguments: str,
        host: str,
        processors: int,
        before: tuple[str, ...] = (),
        settings: Mapping[str, str] | None = None,
    ) -> RayNode:
        place = ("--node-ip-address", host, "--num-cpus", str(processors))
        journal = self.directory / f"node-{len(self.nodes)}.log"
        self.nodes.append(RayNode(journal, *arguments, *place, settings=settings, before=before))
        # Two that start at once on one machine may choose the same names for their sockets.
        eventually(lambda: "will now block" in journal.read_text(), within=120)
        return self.nodes[-1]


def token() -> dict[str, str]:
    """Settings with which nodes and drivers ask for a token: by default `ray start` lets everybody in."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
