"""A real daemon on a disk that is really full: it stops acking, says so, stays up, and goes on when there is room."""

from __future__ import annotations

import subprocess
from collections import Counter
from typing import TYPE_CHECKING

import grpc
import httpx
import pytest

from harness import Daemon, eventually
from sender import Sender
from topowatch_monitor.store.disk import OsDisk
from topowatch_monitor.store.reader import LogReader
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import ingest_pb2, log_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MEGABYTES = 8


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "disk"
    directory.mkdir()
    size = f"size={MEGABYTES}m"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", directory], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk takes root")
    yield directory
    subprocess.run(["umount", directory], check=True)


def fill(path: Path) -> None:
    """Write until the disk is full; raises OSError."""
    with path.open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(1 << 12))


@pytest.mark.parametrize(
    "engine", ["inline", pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.xdist_group("ray")])]
)
def test_a_full_disk_stops_acks_and_nothing_else(small_disk: Path, engine: str) -> None:
    (small_disk / "filler").write_bytes(bytes(4 << 20))
    daemon = Daemon(small_disk, "--engine", engine).start()
    sender = Sender(daemon.grpc, "run")
    try:
        status = ingest_pb2.ACK_STATUS_STORED
        while status == ingest_pb2.ACK_STATUS_STORED:
            batch = sender.batch(500)
            status = sender.push(batch).status
            if status == ingest_pb2.ACK_STATUS_STORED:
                sender.acked += [envelope.seq for envelope in batch.items]
        assert status == ingest_pb2.ACK_STATUS_UNAVAILABLE
        ready = httpx.get(f"http://{daemon.http}/-/ready")
        assert ready.status_code == 503
        assert "space" in ready.text
        assert daemon.metric("topowatch_ingest_ready") == 0
        assert daemon.process is not None
        assert daemon.process.poll() is None

        subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
        sender.push_until_stored(batch)
        assert eventually(lambda: httpx.get(f"http://{daemon.http}/-/ready").status_code == 200)
        last = max(sender.acked)
        eventually(lambda: daemon.run("run")["step"] == last, within=120)
        assert daemon.stop() == 0
        records = LogReader(daemon.data_dir / "log", OsDisk()).read(0, 1 << 62)
        items = (log_pb2.StoredItem.FromString(r.payload) for r in records if r.kind == LogKind.STORED_ITEM)
        counts = Counter(item.seq for item in items)
        assert set(sender.acked) == set(counts)
        assert set(counts.values()) == {1}
    finally:
        sender.close()
        daemon.stop()


def test_a_daemon_starts_on_a_full_disk_and_says_why_it_does_not_ack(small_disk: Path) -> None:
    daemon = Daemon(small_disk, "--engine", "inline").start()
    sender = Sender(daemon.grpc, "run")
    try:
        sender.push_until_stored(sender.batch(100))
        daemon.stop()
        with pytest.raises(OSError, match="space"):
            fill(small_disk / "filler")
        daemon.start()
        assert daemon.run("run")["samples"] == 100
        batch = sender.batch(500)
        with pytest.raises((AssertionError, grpc.RpcError)):
            sender.push_until_stored(batch, within=3)
        (small_disk / "filler").unlink()
        sender.push_until_stored(batch)
    finally:
        sender.close()
        daemon.stop()
