"""The forwarder as a real process against a small real server: what is in the spool arrives, whatever dies."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import pytest

from client_daemon import RecordingDaemon, eventually
from topowatch_client import messages, quarantine, spawn, spool
from topowatch_client.cli import main
from topowatch_client.config import load
from topowatch_client.courier import Courier
from topowatch_client.forwarder import Forwarder, Plan, SpoolLock, serve
from topowatch_client.spool_reader import Entry, SpoolReader
from topowatch_protos import framing
from topowatch_protos.v1 import ingest_pb2, run_pb2, sample_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def daemon() -> Iterator[RecordingDaemon]:
    server = RecordingDaemon().start()
    yield server
    server.stop()


@pytest.fixture
def spool_dir(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def writer(spool_dir: Path, endpoint: str, name: str = "w", mode: str = "online", **changes: int) -> spool.SpoolWriter:
    made = spool.SpoolWriter(spool_dir, name, {"endpoint": endpoint, "mode": mode}, changes.pop("max_bytes", 256 << 20))
    made.begin(1, descriptor(name, **changes))
    return made


def descriptor(name: str, incarnation: int = 1, start_step: int = 0, first_seq: int = 0) -> bytes:
    facts = messages.RunFacts("g", "r", 0, 1, 1, name, {}, 1021, 0, 10)
    return messages.encode_descriptor(
        facts, incarnation=incarnation, start_step=start_step, first_seq=first_seq, probe=None
    )


def sample(step: int, size: int = 0) -> bytes:
    return sample_pb2.Item(schema=1, sample=sample_pb2.Sample(step=step, probe_losses=b"\0" * size)).SerializeToString()


@pytest.fixture
def forwarder(spool_dir: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(grace: float = 0.5, **environment: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "topowatch_client.forwarder", str(spool_dir), "--grace", str(grace)],
            env={**os.environ, **environment},
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_ships_a_closed_spool_and_leaves_nothing_behind(daemon, spool_dir, forwarder) -> None:
    """A spool whose writer is gone arrives whole, its directory goes, and the forwarder goes too."""
    spooled = writer(spool_dir, daemon.endpoint)
    for step in range(50):
        spooled.append(sample(step))
    spooled.close(ended=True)
    process = forwarder()
    assert process.wait(20) == 0
    assert daemon.seqs == list(range(50))
    assert not spooled.directory.exists()


def test_a_killed_forwarder_is_followed_by_another_that_goes_on(daemon, spool_dir, forwarder) -> None:
    """SIGKILL in mid-stream: the next one starts from the cursor, and nothing is missing."""
    spooled = writer(spool_dir, daemon.endpoint)
    first = forwarder()
    for step in range(30):
        spooled.append(sample(step))
    eventually(lambda: daemon.seqs == list(range(30)))
    first.send_signal(signal.SIGKILL)
    first.wait()
    for step in range(30, 60):
        spooled.append(sample(step))
    batches = daemon.batches
    forwarder()
    eventually(lambda: daemon.seqs == list(range(60)))
    assert daemon.batches - batches <= 2  # what was acked is not sent again
    spooled.close(ended=True)
    eventually(lambda: not spooled.directory.exists())


def test_an_answer_that_never_came_is_asked_for_again(daemon, spool_dir, forwarder) -> None:
    """Stored but not answered for when the forwarder dies: sent again, and it is for the daemon to count it once."""
    spooled = writer(spool_dir, daemon.endpoint)
    daemon.silent.set()
    first = forwarder()
    spooled.append(sample(0))
    eventually(lambda: daemon.seqs == [0])
    assert spool.read_cursor(spooled.directory).get("next_seq", 0) == 0
    first.kill()
    first.wait()
    daemon.silent.clear()
    forwarder()
    eventually(lambda: spooled.acked() == 1)
    assert daemon.batches == 2
    spooled.close(ended=True)


def test_an_outage_is_waited_out(daemon, spool_dir, forwarder) -> None:
    spooled = writer(spool_dir, daemon.endpoint)
    process = forwarder()
    spooled.append(sample(0))
    eventually(lambda: spooled.acked() == 1)
    daemon.stop()
    for step in range(1, 20):
        spooled.append(sample(step))
    eventually(lambda: spool.read_cursor(spooled.directory)["message"])
    assert "127.0.0.1" in spool.read_cursor(spooled.directory)["message"]
    daemon.known.clear()
    daemon.start()
    eventually(lambda: daemon.seqs == list(range(20)), 40)
    eventually(lambda: spool.read_cursor(spooled.directory)["message"] == "")
    spooled.close(ended=True)
    assert process.wait(20) == 0


def test_a_daemon_that_forgot_the_run_is_told_again(daemon, spool_dir, forwarder) -> None:
    spooled = writer(spool_dir, daemon.endpoint)
    forwarder()
    spooled.append(sample(0))
    eventually(lambda: spooled.acked() == 1)
    daemon.forget = True
    spooled.append(sample(1))
    eventually(lambda: daemon.seqs == [0, 1])
    spooled.close(ended=True)


def test_each_item_goes_under_the_incarnation_that_governs_it(daemon, spool_dir, forwarder) -> None:
    spooled = writer(spool_dir, daemon.endpoint)
    for step in range(5):
        spooled.append(sample(step))
    spooled.begin(2, descriptor("w", incarnation=2, start_step=3, first_seq=5))
    for step in range(3, 6):
        spooled.append(sample(step))
    spooled.close(ended=True)
    assert forwarder().wait(20) == 0
    assert [daemon.lives["w", seq] for seq in range(8)] == [(1, 0)] * 5 + [(2, 3)] * 3


def test_refused_items_are_written_down_and_the_rest_arrives(daemon, spool_dir, forwarder) -> None:
    spooled = writer(spool_dir, daemon.endpoint)
    for step in range(3):
        spooled.append(sample(step))
    refusal = ingest_pb2.Ack(status=ingest_pb2.ACK_STATUS_STORED)
    refusal.rejections.add(seq=1, reason=ingest_pb2.REJECTION_REASON_NOT_FINITE, detail="weights")
    daemon.script.append(refusal)
    spooled.close(ended=True)
    assert forwarder().wait(20) == 0
    assert daemon.seqs == [0, 2]
    (line,) = (spooled.directory / "rejected.log").read_text().splitlines()
    assert json.loads(line)["seqs"] == [1]
    assert json.loads(line)["reason"] == "not_finite: weights"
    assert [path.name for path in spooled.directory.iterdir()] == ["rejected.log"]


def test_a_malformed_batch_is_put_aside_and_can_be_read_later(daemon, spool_dir, forwarder) -> None:
    spooled = writer(spool_dir, daemon.endpoint)
    spooled.append(sample(0))
    daemon.script.append(ingest_pb2.Ack(status=ingest_pb2.ACK_STATUS_INVALID, detail="no such thing"))
    forwarder()
    eventually(lambda: spooled.acked() == 1)
    spooled.append(sample(1))
    spooled.close(ended=True)
    eventually(lambda: daemon.seqs == [1])
    (kept,) = spooled.directory.glob("quarantine-*.bin")
    frames = list(framing.scan(kept.read_bytes()))
    assert [frame.kind for frame in frames] == [framing.SpoolKind.DESCRIPTOR, framing.SpoolKind.ENVELOPE]
    assert ingest_pb2.Envelope.FromString(frames[1].payload).item == sample(0)


def test_items_of_a_newer_schema_are_kept_and_stored_once_the_daemon_can(daemon, spool_dir, forwarder, capsys) -> None:
    """An old daemon refuses them; after its upgrade `sync --quarantined` sends them under new sequence numbers."""
    spooled = writer(spool_dir, daemon.endpoint)
    for step in range(5):
        spooled.append(sample(step))
    spooled.close(ended=True)
    refusal = ingest_pb2.Ack(status=ingest_pb2.ACK_STATUS_STORED)
    for seq in (1, 2, 4):
        refusal.rejections.add(seq=seq, reason=ingest_pb2.REJECTION_REASON_NEWER_SCHEMA, detail="upgrade")
    daemon.script.append(refusal)
    assert forwarder().wait(20) == 0
    assert daemon.seqs == [0, 3]
    assert spool.writer_directories(spool_dir) == []
    sync = ["sync", str(spool_dir), "--endpoint", daemon.endpoint]
    assert main(sync) == 0
    assert daemon.seqs == [0, 3]
    refusal = ingest_pb2.Ack(status=ingest_pb2.ACK_STATUS_STORED)
    refusal.rejections.add(seq=6, reason=ingest_pb2.REJECTION_REASON_NEWER_SCHEMA, detail="upgrade more")
    daemon.script.append(refusal)
    assert main([*sync, "--quarantined"]) == 0
    assert "--quarantined" in capsys.readouterr().err
    assert daemon.seqs == [0, 3, 5, 7]
    assert main([*sync, "--quarantined"]) == 0
    assert sorted(body.sample.step for body in daemon.bodies()) == list(range(5))
    assert daemon.seqs == [0, 3, 5, 7, 8]
    assert [path.name for path in spooled.directory.iterdir()] == ["rejected.log"]


def test_a_batch_that_was_refused_goes_its_way_when_tried_again(daemon, spool_dir) -> None:
    spooled = writer(spool_dir, daemon.endpoint)
    for step in range(3):
        spooled.append(sample(step))
    spooled.close(ended=True)
    daemon.script.append(ingest_pb2.Ack(status=ingest_pb2.ACK_STATUS_INVALID, detail="too many labels"))
    sync = ["sync", str(spool_dir), "--endpoint", daemon.endpoint]
    assert main(sync) == 0
    assert daemon.seqs == []
    assert main([*sync, "--quarantined"]) == 0
    assert [body.sample.step for body in daemon.bodies()] == [0, 1, 2]


def test_what_a_living_writer_had_refused_waits_for_its_end(spool_dir) -> None:
    """It still gives out sequence numbers; it is a process of its own here, because POSIX locks belong to processes."""
    directory = spool_dir / "w"
    code = (
        "import sys; from pathlib import Path; from topowatch_client import spool\n"
        "writer = spool.SpoolWriter(Path(sys.argv[1]), 'w', {}, 1 << 20); print('up', flush=True); sys.stdin.read()"
    )
    living = subprocess.Popen(
        [sys.executable, "-c", code, str(spool_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert living.stdout.readline() == b"up\n"
        kept = ingest_pb2.Envelope(seq=3, item=sample(3))
        descriptor_of_w = run_pb2.RunDescriptor.FromString(descriptor("w"))
        quarantine.keep(directory, [Entry(3, kept, 10, descriptor_of_w)])
        quarantine.requeue_all(spool_dir)
        assert len(quarantine.kept(directory)) == 1
    finally:
        living.communicate()
    quarantine.requeue_all(spool_dir)
    assert quarantine.kept(directory) == []


def test_a_requeue_that_is_killed_is_done_again_and_doubles_nothing(tmp_path, monkeypatch) -> None:
    described = run_pb2.RunDescriptor.FromString(descriptor("w"))
    for first in (0, 10):
        envelopes = [ingest_pb2.Envelope(seq=seq, item=sample(seq)) for seq in range(first, first + 3)]
        assert quarantine.keep(tmp_path, [Entry(made.seq, made, 10, described) for made in envelopes])
    (tmp_path / spool.CURSOR).write_text('{"next_seq": 20}')
    for lives in range(3):
        left = [lives]

        def rename(self: Path, target: Path, left: list[int] = left) -> Path:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return self.replace(target)

        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(pathlib.Path, "rename", rename)
            quarantine.requeue(tmp_path)
    reader, entries = SpoolReader(tmp_path, 20), []
    while part := reader.read(1 << 20, 99):
        entries += part
    assert [entry.seq for entry in entries] == list(range(20, 26))
    steps = [sample_pb2.Item.FromString(entry.envelope.item).sample.step for entry in entries]
    assert sorted(steps) == [0, 1, 2, 10, 11, 12]
    assert quarantine.kept(tmp_path) == []


def test_a_full_quarantine_takes_no_more(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(quarantine, "_MAX_BYTES", 1500)
    described = run_pb2.RunDescriptor.FromString(descriptor("w"))
    entries = [Entry(seq, ingest_pb2.Envelope(seq=seq, item=sample(seq, 500)), 500, described) for seq in range(5)]
    assert [quarantine.keep(tmp_path, [entry]) for entry in entries] == [True, True, False, False, False]


def test_what_cannot_be_noted_stops_nothing(daemon, spool_dir, forwarder) -> None:
    """The cursor cannot be written, as on a full disk: items arrive, acked segments go, and the spool in the end."""
    spooled = writer(spool_dir, daemon.endpoint, max_bytes=1 << 18)
    (spooled.directory / f"{spool.CURSOR}.new").mkdir()
    forwarder()
    for step in range(50):
        spooled.append(sample(step, 2000))
        if step % 10 == 9:
            eventually(lambda step=step: daemon.seqs == list(range(step + 1)))
    assert spooled.acked() == 0
    eventually(lambda: len(list(spooled.directory.glob("*.seg"))) == 1)
    spooled.close(ended=True)
    eventually(lambda: not spooled.directory.exists())
    assert daemon.seqs == list(range(50))


def test_the_lock_is_taken_where_its_number_cannot_be_written(spool_dir, monkeypatch) -> None:
    """A full disk is what the forwarder is there to empty."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    lock = SpoolLock(spool_dir)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert lock.acquire()
    assert spawn.forwarder_running(spool_dir)
    assert spawn.forwarder_pid(spool_dir) is None
    lock.release()
    assert not spawn.forwarder_running(spool_dir)


def test_who_asks_for_a_forwarder_at_that_moment_does_not_keep_it_from_starting(spool_dir, monkeypatch) -> None:
    spool_dir.mkdir()
    with (spool_dir / spool.FORWARDER_LOCK).open("w") as asked:
        fcntl.flock(asked, fcntl.LOCK_SH)
        assert not spawn.forwarder_running(spool_dir)  # and two that ask do not take each other for one
        lock = SpoolLock(spool_dir)
        with monkeypatch.context() as patch:
            patch.setattr(time, "sleep", lambda _: fcntl.flock(asked, fcntl.LOCK_UN))
            assert lock.acquire()
    assert not SpoolLock(spool_dir).acquire()
    lock.release()


def test_a_forwarder_does_not_leave_before_a_drained_spool_is_put_away(spool_dir, tmp_path, monkeypatch) -> None:
    """However long that takes, on a busy machine."""
    spooled = writer(spool_dir, "127.0.0.1:1")
    spooled.close(ended=True)

    async def run(courier: Courier) -> None:
        courier.drained = True
        await asyncio.sleep(1.0)
        courier._remove()
        courier.finished = True

    monkeypatch.setattr(Courier, "run", run)
    shipping = serve(spool_dir, load({}, {}, tmp_path), Plan(grace_seconds=0.0))
    asyncio.run(asyncio.wait_for(shipping, 20))
    assert not spooled.directory.exists()


def test_a_fenced_spool_is_tried_again_after_a_pause(daemon, spool_dir, tmp_path) -> None:
    """The forwarder that took it over may be gone by then."""
    spooled = writer(spool_dir, daemon.endpoint)
    spooled.append(sample(0))
    spooled.close(ended=True)
    daemon.script.append(ingest_pb2.Ack(status=ingest_pb2.ACK_STATUS_FENCED))

    def look(forwarder: Forwarder) -> None:
        if not spooled.directory.exists():
            forwarder.stop()

    shipping = serve(spool_dir, load({}, {}, tmp_path), Plan(stay=True, rest_seconds=0.0), look)
    asyncio.run(asyncio.wait_for(shipping, 20))
    assert daemon.seqs == [0]
    assert daemon.script == []


def test_the_forwarder_removes_what_a_killed_attach_left(spool_dir, forwarder) -> None:
    left = spool_dir / ".new-x"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    assert forwarder().wait(20) == 0
    assert not left.exists()


def test_a_fenced_stream_leaves_the_spool_alone(daemon, spool_dir, forwarder) -> None:
    spooled = writer(spool_dir, daemon.endpoint)
    spooled.append(sample(0))
    daemon.script.append(ingest_pb2.Ack(status=ingest_pb2.ACK_STATUS_FENCED))
    process = forwarder()
    assert process.wait(20) == 0
    assert daemon.seqs == []
    assert "another forwarder" in spool.read_cursor(spooled.directory)["message"]
    assert [entry.seq for entry in SpoolReader(spooled.directory).read(1 << 20, 9)] == [0]


def test_a_server_with_a_small_limit_gets_smaller_batches(spool_dir, forwarder) -> None:
    server = RecordingDaemon().start((("grpc.max_receive_message_length", 30_000),))
    try:
        spooled = writer(spool_dir, server.endpoint)
        for step in range(20):
            spooled.append(sample(step, 50_000 if step == 7 else 5_000))
        spooled.close(ended=True)
        assert forwarder().wait(60) == 0
        assert server.seqs == [step for step in range(20) if step != 7]
        assert json.loads((spooled.directory / "rejected.log").read_text())["seqs"] == [7]
    finally:
        server.stop()


def test_dropped_ranges_reach_the_daemon(daemon, spool_dir, forwarder) -> None:
    """What overflowed before anything could be sent is known to the daemon afterwards, to the last number."""
    spooled = writer(spool_dir, daemon.endpoint, max_bytes=1 << 16)
    for step in range(100):
        spooled.append(sample(step, 2000))
    spooled.close(ended=True)
    assert forwarder().wait(20) == 0
    told: set[int] = set()
    for item in daemon.bodies():
        if item.HasField("dropped"):
            told |= set(range(item.dropped.first_seq, item.dropped.last_seq + 1))
    assert set(daemon.seqs) | told == set(range(spooled.next_seq))
    assert spooled.dropped == len(told)


def test_one_forwarder_a_directory_and_sigint_ends_it(daemon, spool_dir, forwarder) -> None:
    spooled = writer(spool_dir, daemon.endpoint)
    first = forwarder()
    eventually(lambda: spawn.forwarder_pid(spool_dir) == first.pid)
    assert forwarder().wait(20) == 0
    assert not spawn.ensure_forwarder(spool_dir)
    assert first.poll() is None
    first.send_signal(signal.SIGINT)
    assert first.wait(20) == 0
    assert spawn.forwarder_pid(spool_dir) is None
    spooled.close(ended=True)


def test_several_writers_are_shipped_at_once_and_new_ones_are_found(daemon, spool_dir, forwarder) -> None:
    writers = [writer(spool_dir, daemon.endpoint, "a"), writer(spool_dir, daemon.endpoint, "b")]
    process = forwarder()
    for made in writers:
        made.append(sample(0))
    eventually(lambda: sorted(daemon.items) == ["a", "b"])
    writers.append(writer(spool_dir, daemon.endpoint, "c"))
    writers[-1].append(sample(0))
    eventually(lambda: sorted(daemon.items) == ["a", "b", "c"])
    for made in writers:
        made.close(ended=True)
    assert process.wait(20) == 0
    assert spool.writer_directories(spool_dir) == []


def test_a_writer_that_a_coarse_clock_hides_is_found_after_some_looks(spool_dir) -> None:
    """And a spool that was left alone for a while is taken up again at once."""

    async def look() -> list[int]:
        shipping = Forwarder(spool_dir, load(), Plan(rest_seconds=0.0))
        writer(spool_dir, "127.0.0.1:1", "a")
        found = []
        shipping._scan()
        found.append(len(shipping.couriers))
        before = spool_dir.stat()
        writer(spool_dir, "127.0.0.1:1", "b")
        os.utime(spool_dir, ns=(before.st_atime_ns, before.st_mtime_ns))
        for _ in range(6):
            shipping._scan()
            found.append(len(shipping.couriers))
        (first, *_) = shipping.couriers.values()
        shipping._resting[first.directory] = 0.0
        shipping._scan()
        assert shipping.couriers[first.directory] is not first
        for task in shipping._tasks.values():
            task.cancel()
        await asyncio.gather(*shipping._tasks.values(), return_exceptions=True)
        return found

    assert asyncio.run(look()) == [1, 1, 1, 1, 1, 2, 2]


def test_the_token_travels_with_the_stream(daemon, spool_dir, forwarder, tmp_path) -> None:
    spooled = writer(spool_dir, daemon.endpoint)
    spooled.append(sample(0))
    spooled.close(ended=True)
    forwarder(TOPOWATCH_TOKEN="s3cret").wait(20)  # noqa: S106 -- a made-up one
    (tmp_path / "token").write_text("from-a-file\n")
    spooled = writer(spool_dir, daemon.endpoint, "v")
    spooled.append(sample(0))
    spooled.close(ended=True)
    forwarder(TOPOWATCH_TOKEN_FILE=str(tmp_path / "token")).wait(20)
    assert daemon.tokens == {"Bearer s3cret", "Bearer from-a-file"}


def test_each_writer_is_shipped_under_its_own_token_file_and_others_under_the_forwarders(
    daemon, spool_dir, forwarder, tmp_path
) -> None:
    for name, token in (("a", "token-a"), ("b", "token-b"), ("c", None)):
        noted = {}
        if token is not None:
            (tmp_path / name).write_text(token)
            noted = {"token_file": str(tmp_path / name)}
        spooled = spool.SpoolWriter(spool_dir, name, {"endpoint": daemon.endpoint, **noted}, 1 << 20)
        spooled.begin(1, descriptor(name))
        spooled.append(sample(0))
        spooled.close(ended=True)
    assert forwarder(TOPOWATCH_TOKEN="in-memory").wait(20) == 0  # noqa: S106 -- a made-up one
    assert daemon.tokens == {"Bearer token-a", "Bearer token-b", "Bearer in-memory"}


def test_offline_spools_wait_for_sync(daemon, spool_dir, forwarder, capsys) -> None:
    spooled = writer(spool_dir, "127.0.0.1:1", mode="offline")
    for step in range(10):
        spooled.append(sample(step))
    spooled.close(ended=True)
    assert forwarder(grace=0.1).wait(20) == 0
    assert daemon.seqs == []
    assert main(["sync", str(spool_dir), "--endpoint", daemon.endpoint]) == 0
    assert daemon.seqs == list(range(10))
    assert "10 items acknowledged" in capsys.readouterr().err
    assert not spooled.directory.exists()
    assert main(["sync", str(spool_dir), "--endpoint", daemon.endpoint]) == 0


def test_leftovers_are_shipped_some_at_a_time(spool_dir, monkeypatch) -> None:
    """Each takes a connection and files, and a sweep may leave thousands."""
    opened: list[str] = []
    gate = threading.Event()

    class Gated(RecordingDaemon):
        def StreamBatches(self, request_iterator, context):  # noqa: N802 -- the generated name
            opened.append(context.peer())
            gate.wait(20)
            yield from super().StreamBatches(request_iterator, context)

    server = Gated().start()
    try:
        for number in range(12):
            spooled = writer(spool_dir, server.endpoint, f"w{number}", mode="offline")
            spooled.append(sample(0))
            spooled.close(ended=True)
        monkeypatch.setattr("topowatch_client.forwarder._AT_ONCE", 3)

        def open_before_any_ends() -> int:
            try:
                eventually(lambda: len(opened) >= 3)
                time.sleep(1.5)  # looks at the directory: what waits does not get in
                return len(opened)
            finally:
                gate.set()

        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(open_before_any_ends)
            assert main(["sync", str(spool_dir), "--endpoint", server.endpoint]) == 0
        assert held.result() == 3
        assert len(server.items) == 12
    finally:
        gate.set()
        server.stop()


def test_sync_gives_up_on_a_daemon_that_is_not_there(spool_dir, capsys) -> None:
    spooled = writer(spool_dir, "127.0.0.1:1", mode="offline")
    spooled.append(sample(0))
    spooled.close(ended=True)
    assert main(["sync", str(spool_dir), "--endpoint", "127.0.0.1:1", "--timeout", "1"]) == 1
    assert "UNAVAILABLE" in capsys.readouterr().err
    assert [entry.seq for entry in SpoolReader(spooled.directory).read(1 << 20, 9)] == [0]


def test_sync_of_a_directory_that_is_not_there_says_so(tmp_path, capsys) -> None:
    assert main(["sync", str(tmp_path / "nowhere")]) == 1
    assert "is no directory" in capsys.readouterr().err


def test_forward_ships_for_as_long_as_it_runs(daemon, spool_dir) -> None:
    """As a sidecar, offline spools included; SIGTERM ends it."""
    spool_dir.mkdir()
    code = f"from topowatch_client.cli import main; raise SystemExit(main(['forward', {str(spool_dir)!r}]))"
    sidecar = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        for name in ("a", "b"):
            spooled = writer(spool_dir, daemon.endpoint, name, mode="offline")
            spooled.append(sample(0))
            spooled.close(ended=True)
            eventually(lambda made=spooled: not made.directory.exists())
        assert sorted(daemon.items) == ["a", "b"]
        sidecar.terminate()
        assert sidecar.wait(20) == 0
    finally:
        sidecar.kill()
        sidecar.wait()


def test_mutual_tls_and_what_a_stranger_gets(spool_dir, forwarder, tmp_path) -> None:
    """The certificates that the job names are used; without one nothing arrives and the reason is written down."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificates")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, *request.split(), *names], check=True, capture_output=True)
    pair = (key.read_bytes(), certificate.read_bytes())
    server = RecordingDaemon().start(
        credentials=grpc.ssl_server_credentials([pair], certificate.read_bytes(), require_client_auth=True)
    )
    files = {"tls_ca": str(certificate), "tls_cert": str(certificate), "tls_key": str(key)}
    try:
        stranger = writer(spool_dir, server.endpoint, "stranger")
        known = spool.SpoolWriter(spool_dir, "known", {"endpoint": server.endpoint, **files}, 1 << 20)
        known.begin(1, descriptor("known"))
        for made in (stranger, known):
            made.append(sample(0))
            made.close(ended=True)
        forwarder()
        eventually(lambda: not known.directory.exists())
        eventually(lambda: spool.read_cursor(stranger.directory).get("message"))
        assert list(server.items) == ["known"]
    finally:
        server.stop()
