"""Forwarders and the processes of a host: started at once, in containers, stopped by a cluster, with jumping clocks."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from client_daemon import RecordingDaemon, eventually
from harness import unavailable
from topowatch_client import spawn, spool
from topowatch_client.config import load
from topowatch_client.forwarder import Forwarder, Plan, SpoolLock, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A job without torch: a sample a line of standard input, until that closes. argv: spool directory, endpoint, name.
JOB = """
    import sys
    from pathlib import Path
    from topowatch_client import messages, spawn, spool
    from topowatch_protos.v1 import sample_pb2

    directory, endpoint, name = Path(sys.argv[1]), *sys.argv[2:]
    writer = spool.SpoolWriter(directory, name, {"endpoint": endpoint, "mode": "online"}, 1 << 20)
    facts = messages.RunFacts("g", name, 0, 1, 1, name, {}, 1021, 0, 10)
    writer.begin(1, messages.encode_descriptor(facts, incarnation=1, start_step=0, first_seq=0, probe=None))
    print("up", flush=True)
    for step, line in enumerate(sys.stdin):
        if line == "start\\n":
            print(spawn.ensure_forwarder(directory), flush=True)
        writer.append(sample_pb2.Item(schema=1, sample=sample_pb2.Sample(step=step)).SerializeToString())
    writer.close(ended=False)
"""


@pytest.fixture
def daemon() -> Iterator[RecordingDaemon]:
    server = RecordingDaemon().start()
    yield server
    server.stop()


@pytest.fixture
def spool_dir(tmp_path: Path) -> Iterator[Path]:
    """A spool directory whose forwarder, if one was started, is ended with the test."""
    directory = tmp_path / "spool"
    directory.mkdir()
    yield directory
    for pid in forwarders_of(directory):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def start(spool_dir: Path, daemon: RecordingDaemon) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `python -c CODE ARGUMENTS`, behind other words if wanted; all are killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str, *arguments: str, behind: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        command = [*behind, sys.executable, "-c", textwrap.dedent(code), *arguments]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def job(
    start: Callable[..., subprocess.Popen[str]], spool_dir: Path, daemon: RecordingDaemon
) -> Callable[..., subprocess.Popen[str]]:
    def run(name: str = "w", behind: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        process = start(JOB, str(spool_dir), daemon.endpoint, name, behind=behind)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return process

    return run


@pytest.fixture
def sidecar(start: Callable[..., subprocess.Popen[str]], spool_dir: Path) -> Callable[[], subprocess.Popen[str]]:
    code = "import sys; from topowatch_client.cli import main; raise SystemExit(main(['forward', sys.argv[1]]))"
    return lambda: start(code, str(spool_dir))


def say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def forwarders_of(spool_dir: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"topowatch_client.forwarder" in words and str(spool_dir).encode() in words:
                found.append(int(entry.name))
    return found


def test_of_many_ranks_that_attach_at_once_one_starts_a_forwarder_that_ships_all(
    job: Callable[..., subprocess.Popen[str]], daemon: RecordingDaemon, spool_dir: Path
) -> None:
    ranks = [job(f"rank-{number}") for number in range(8)]
    for rank in ranks:
        say(rank, "start")
    answers = [rank.stdout.readline() for rank in ranks if rank.stdout is not None]
    assert sorted(answers) == ["False\n"] * 7 + ["True\n"]
    eventually(lambda: len(forwarders_of(spool_dir)) == 1)
    eventually(lambda: sorted(daemon.items) == [f"rank-{number}" for number in range(8)])
    assert forwarders_of(spool_dir) == [spawn.forwarder_pid(spool_dir)]


def test_a_forwarder_that_dies_at_once_leaves_the_lock_free(
    job: Callable[..., subprocess.Popen[str]], spool_dir: Path
) -> None:
    rank = job()
    say(rank, "start")
    assert rank.stdout is not None
    assert rank.stdout.readline() == "True\n"
    assert spawn.forwarder_running(spool_dir)  # from the first moment, by the lock that it was handed
    eventually(lambda: forwarders_of(spool_dir))
    (pid,) = forwarders_of(spool_dir)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not spawn.forwarder_running(spool_dir))
    say(rank, "start")
    assert rank.stdout.readline() == "True\n"
    assert spawn.forwarder_pid(spool_dir) != pid  # nobody takes the dead one's number for the new one's
    eventually(lambda: forwarders_of(spool_dir))


def test_sigterm_to_a_sidecar_leaves_it_time_for_the_last_words_of_the_jobs(
    job: Callable[..., subprocess.Popen[str]],
    sidecar: Callable[[], subprocess.Popen[str]],
    daemon: RecordingDaemon,
    spool_dir: Path,
) -> None:
    """A cluster tells all containers of a pod at once; the trainer still saves and samples, and then ends."""
    shipping, trainer = sidecar(), job()
    say(trainer, "")
    eventually(lambda: daemon.seqs == [0])
    shipping.terminate()
    time.sleep(1.5)
    say(trainer, "")
    eventually(lambda: daemon.seqs == [0, 1])
    assert shipping.poll() is None
    say(trainer, "")
    trainer.communicate()
    assert shipping.wait(15) == 0
    assert daemon.seqs == [0, 1, 2]
    assert spool.writer_directories(spool_dir) == []


def test_a_second_sigterm_ends_a_sidecar_at_once(
    job: Callable[..., subprocess.Popen[str]],
    sidecar: Callable[[], subprocess.Popen[str]],
    daemon: RecordingDaemon,
) -> None:
    shipping, trainer = sidecar(), job()
    say(trainer, "")
    eventually(lambda: daemon.seqs == [0])
    shipping.terminate()
    time.sleep(0.5)
    assert shipping.poll() is None
    shipping.terminate()
    assert shipping.wait(10) == 0


def test_a_forwarder_that_is_told_to_leave_does_so_in_time_whoever_still_writes(
    job: Callable[..., subprocess.Popen[str]], spool_dir: Path, tmp_path: Path
) -> None:
    trainer = job()
    say(trainer, "")

    def leave(forwarder: Forwarder) -> None:
        if not forwarder.stopping:
            forwarder.leave()

    shipping = serve(spool_dir, load({}, {}, tmp_path), Plan(stay=True, leave_seconds=0.7), leave)
    asyncio.run(asyncio.wait_for(shipping, 20))
    assert trainer.poll() is None
    assert not spawn.forwarder_running(spool_dir)


def test_a_sidecar_waits_for_a_forwarder_that_a_job_has_started(
    job: Callable[..., subprocess.Popen[str]],
    sidecar: Callable[[], subprocess.Popen[str]],
    daemon: RecordingDaemon,
    spool_dir: Path,
) -> None:
    """Its container is not restarted again and again, and takes over once the job's own is gone."""
    trainer = job()
    say(trainer, "start")
    eventually(lambda: daemon.seqs == [0])
    own = spawn.forwarder_pid(spool_dir)
    assert own is not None
    shipping = sidecar()
    with pytest.raises(subprocess.TimeoutExpired):
        shipping.wait(2)
    os.kill(own, signal.SIGKILL)
    eventually(lambda: spawn.forwarder_pid(spool_dir) == shipping.pid)
    say(trainer, "")
    eventually(lambda: daemon.seqs == [0, 1])


def test_a_sidecar_that_waits_can_be_stopped(sidecar: Callable[[], subprocess.Popen[str]], spool_dir: Path) -> None:
    lock = SpoolLock(spool_dir)
    assert lock.acquire()
    try:
        shipping = sidecar()
        with pytest.raises(subprocess.TimeoutExpired):
            shipping.wait(1.5)
        shipping.terminate()
        assert shipping.wait(10) == 0
    finally:
        lock.release()


def test_a_writer_in_another_container_is_known_to_live_and_to_die(
    job: Callable[..., subprocess.Popen[str]],
    sidecar: Callable[[], subprocess.Popen[str]],
    daemon: RecordingDaemon,
    spool_dir: Path,
) -> None:
    """Process ids mean nothing across containers; locks do. What is left of a killed one is shipped and put away."""
    apart = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], check=False).returncode:
        unavailable("a process namespace of its own takes root")
    trainer = job(behind=apart)
    say(trainer, "")
    sidecar()
    eventually(lambda: daemon.seqs == [0])
    time.sleep(1.0)
    (directory,) = spool.writer_directories(spool_dir)
    assert spool.writer_alive(directory)
    say(trainer, "")
    eventually(lambda: daemon.seqs == [0, 1])
    trainer.kill()
    eventually(lambda: not directory.exists())


def test_a_writer_of_another_kernel_is_not_taken_for_dead_for_want_of_a_lock(
    start: Callable[..., subprocess.Popen[str]], daemon: RecordingDaemon, spool_dir: Path, tmp_path: Path
) -> None:
    """On a network file system without locks it may write on: what is there is shipped, and it stays for a while."""
    start(JOB, str(spool_dir), daemon.endpoint, "w").communicate("\n\n")
    (directory,) = spool.writer_directories(spool_dir)
    meta = json.loads((directory / spool.META).read_text())
    assert meta["boot"] == spool.boot_id() != ""
    (directory / spool.META).write_text(json.dumps({**meta, "boot": "another"}))

    def ship(silence: float) -> None:
        plan = Plan(stay=True, silence_seconds=silence)
        looks = []

        def look(forwarder: Forwarder) -> None:
            looks.append(daemon.seqs == [0, 1])
            if looks.count(True) > 4 or not directory.exists():
                forwarder.stop()

        asyncio.run(asyncio.wait_for(serve(spool_dir, load({}, {}, tmp_path), plan, look), 20))

    ship(600.0)
    assert directory.exists()
    ship(0.3)
    assert not directory.exists()


def test_a_forwarder_does_not_mind_a_clock_that_jumps(
    start: Callable[..., subprocess.Popen[str]], daemon: RecordingDaemon, spool_dir: Path
) -> None:
    """Days to and fro at every look at it, through an outage: it ships all, goes on waiting, and leaves when done."""
    code = """
        import random, sys, time
        dice, real, real_ns = random.Random(0), time.time, time.time_ns
        time.time = lambda: real() + dice.uniform(-3e5, 3e5)
        time.time_ns = lambda: real_ns() + int(dice.uniform(-3e14, 3e14))
        from topowatch_client.forwarder import main
        raise SystemExit(main([sys.argv[1], "--grace", "0.5"]))
    """
    daemon.stop()
    start(JOB, str(spool_dir), daemon.endpoint, "w").communicate("\n" * 50)
    shipping = start(code, str(spool_dir))
    (directory,) = spool.writer_directories(spool_dir)
    eventually(lambda: "UNAVAILABLE" in spool.read_cursor(directory).get("message", ""))
    time.sleep(1.0)
    daemon.start()
    assert shipping.wait(30) == 0
    assert daemon.seqs == list(range(50))
    assert not directory.exists()
