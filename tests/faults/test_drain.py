"""SIGTERM to a daemon under load: it says so, stores what it has begun, ends soon, and clients go on with the next."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import httpx
import pytest

from harness import Daemon, Job, eventually
from sender import Sender
from topowatch_monitor.store.disk import OsDisk
from topowatch_monitor.store.reader import LogReader
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

GRACE_SECONDS = 30.0  # that orchestrators give before they kill


def stored(daemon: Daemon) -> Counter[tuple[str, int]]:
    """How often each sequence number of each run is in the log."""
    records = LogReader(daemon.data_dir / "log", OsDisk()).read(0, 1 << 62)
    items = (log_pb2.StoredItem.FromString(r.payload) for r in records if r.kind == LogKind.STORED_ITEM)
    return Counter((item.key.run, item.seq) for item in items)


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except OSError:
        return False
    return True


def readiness(daemon: Daemon) -> int | None:
    """The status of /-/ready; None where nobody answers."""
    try:
        return httpx.get(f"http://{daemon.http}/-/ready", timeout=5.0).status_code
    except httpx.HTTPError:
        return None


def drained(daemon: Daemon) -> None:
    """End a daemon as an orchestrator would, and watch how it goes."""
    assert daemon.process is not None
    began = time.monotonic()
    daemon.process.send_signal(signal.SIGTERM)
    seen: list[int | None] = []
    while daemon.process.poll() is None and time.monotonic() < began + GRACE_SECONDS:
        listening = listens(daemon.grpc)
        seen.append(readiness(daemon))
        assert listening or seen[-1] != httpx.codes.OK, "it takes nothing any more, and is said to be ready"
    assert daemon.stop() == 0
    assert time.monotonic() < began + GRACE_SECONDS
    assert httpx.codes.SERVICE_UNAVAILABLE in seen
    assert httpx.codes.OK not in seen[seen.index(httpx.codes.SERVICE_UNAVAILABLE) :]


@pytest.mark.parametrize(
    "engine", ["inline", pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.xdist_group("ray")])]
)
def test_a_daemon_that_is_stopped_under_load_goes_in_order_and_nobody_loses_anything(
    make_daemon: Callable[..., Daemon], start_job: Callable[..., Job], engine: str
) -> None:
    daemon = make_daemon("--engine", engine)
    senders = [Sender(daemon.grpc, f"run-{number}", seed=number) for number in range(3)]
    job = start_job(daemon.grpc, "--steps", "150", "--pace", "0.02")
    stop = threading.Event()

    def stream(sender: Sender) -> None:
        while not stop.is_set():
            sender.push_until_stored(sender.batch(4))
            time.sleep(0.02)  # more than this is for a benchmark: the engine shares its cores with other tests

    threads = [threading.Thread(target=stream, args=(sender,)) for sender in senders]
    for thread in threads:
        thread.start()
    try:
        job.wait_for_step(30)
        eventually(lambda: daemon.run("job")["samples"] > 0)
        eventually(lambda: all(len(sender.acked) > 40 for sender in senders))
        drained(daemon)
        acked = [(sender.key.run, seq) for sender in senders for seq in list(sender.acked)]
        assert set(acked) <= stored(daemon).keys()
        daemon.start()
        before = [len(sender.acked) for sender in senders]
        eventually(lambda: all(len(sender.acked) > were for sender, were in zip(senders, before, strict=True)))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    job.finish()
    eventually(lambda: daemon.run("job")["state"] == "ended")
    for sender in senders:
        eventually(lambda sender=sender: daemon.run(sender.key.run).get("analysed") == len(sender.acked))
        sender.close()
    assert daemon.run("job")["dropped"] == 0
    counts = stored(daemon)
    assert set(counts.values()) == {1}
    shipped = sorted(seq for run, seq in counts if run == "job")
    assert shipped == list(range(len(shipped)))
    assert len(shipped) > 150, "all steps, and the end"
    assert {(sender.key.run, seq) for sender in senders for seq in sender.acked} <= counts.keys()
