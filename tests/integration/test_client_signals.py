"""Signals of the job that arrive while a hook of ours is at work: its handlers do what they would have done anyway."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

from topowatch_client import spool
from topowatch_client.spool_reader import SpoolReader, segments_of
from topowatch_protos import framing
from topowatch_protos.v1 import ingest_pb2, sample_pb2

if TYPE_CHECKING:
    from pathlib import Path

    from topowatch_client.spool_reader import Entry

# The loop says its steps itself: that spares the half of torch that an optimiser imports.
TRAINING = """
    import os, random, signal, sys, time
    import torch
    import topowatch_client
    from topowatch_client import spool

    class Preempted(Exception):
        pass

    def in_the_hook(act, before, at=5):
        writes, real = [0], spool._write_all
        def write(fd, data):
            writes[0] += 1
            if writes[0] == at and before:
                act()
            real(fd, data)
            if writes[0] == at and not before:
                act()
        spool._write_all = write

    model = torch.nn.Linear(8, 8)
    watch = topowatch_client.attach(model, run="r", config={"mode": "offline", "interval": 1})
    assert watch.status["mode"] == "offline", watch.status
"""


def train(spool_dir: Path, script: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOPOWATCH_")}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(TRAINING) + textwrap.dedent(script)],
        env={**environment, "TOPOWATCH_SPOOL_DIR": str(spool_dir)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def read_whole(spool_dir: Path) -> list[Entry]:
    """Read the one spool that is there and check it to the last byte: no number twice, nothing torn, nothing unread."""
    (directory,) = spool.writer_directories(spool_dir)
    on_disk: list[int] = []
    for segment in segments_of(directory):
        content = segment.read_bytes()
        assert content.startswith(framing.MAGIC)
        frames = list(framing.scan(content))
        assert frames[0].kind == framing.SpoolKind.DESCRIPTOR
        assert frames[-1].end == len(content)
        on_disk += [
            ingest_pb2.Envelope.FromString(frame.payload).seq
            for frame in frames
            if frame.kind == framing.SpoolKind.ENVELOPE
        ]
    reader, entries = SpoolReader(directory), []
    while part := reader.read(1 << 20, 1 << 10):
        entries += part
    assert [entry.seq for entry in entries] == on_disk == sorted(set(on_disk))
    return entries


def bodies(entries: list[Entry]) -> list[sample_pb2.Item]:
    return [sample_pb2.Item.FromString(entry.envelope.item) for entry in entries]


def test_what_a_handler_raises_reaches_training_and_watching_goes_on(tmp_path: Path) -> None:
    """An exception of the job's own, as of a scheduler that wants the node back; it is no error of ours."""
    script = """
        def handler(number, frame):
            raise Preempted
        signal.signal(signal.SIGTERM, handler)
        seen = 0
        for before in (True, False):
            in_the_hook(lambda: os.kill(os.getpid(), signal.SIGTERM), before)
            for _ in range(20):
                try:
                    watch.step()
                except Preempted:
                    seen += 1
        watch.finish(accuracy=0.5)
        print(seen, watch.status["failures"], watch.status["mode"])
    """
    done = train(tmp_path, script)
    assert done.stdout.split() == ["2", "0", "finished"], done.stderr
    assert dict(bodies(read_whole(tmp_path))[-1].end.results) == {"accuracy": 0.5}


def test_an_exit_in_the_hook_is_an_exit(tmp_path: Path) -> None:
    """What was seen before is in the spool, and nothing says that the run ended."""
    script = """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(77))
        in_the_hook(lambda: os.kill(os.getpid(), signal.SIGTERM), before=False)
        while True:
            watch.step()
    """
    done = train(tmp_path, script)
    assert done.returncode == 77, done.stderr
    entries = read_whole(tmp_path)
    assert len(entries) >= 3
    assert not any(body.HasField("end") for body in bodies(entries))


def test_a_handler_that_finishes_the_run_in_the_hook_does_so_behind_it(tmp_path: Path) -> None:
    script = """
        def handler(number, frame):
            watch.log(preempted=1.0)
            watch.finish(accuracy=0.25)
            sys.exit(78)
        signal.signal(signal.SIGTERM, handler)
        in_the_hook(lambda: os.kill(os.getpid(), signal.SIGTERM), before=True)
        while True:
            watch.step()
    """
    done = train(tmp_path, script)
    assert done.returncode == 78, done.stderr
    found = bodies(read_whole(tmp_path))
    assert dict(found[-1].end.results) == {"accuracy": 0.25}
    assert any(series.name == "preempted" for body in found for series in body.sample.scalars)


def test_a_worker_that_is_killed_while_we_look_is_trouble_of_the_training(tmp_path: Path) -> None:
    """DataLoader raises from its own handler of SIGCHLD: if that came in a hook and were kept, nobody would know."""
    script = """
        data = torch.utils.data.TensorDataset(torch.ones(64, 8))
        loader = torch.utils.data.DataLoader(data, batch_size=1, num_workers=1, multiprocessing_context="fork")
        batches = iter(loader)
        next(batches)
        (worker,) = batches._workers
        def kill():
            os.kill(worker.pid, signal.SIGKILL)
            time.sleep(5)
        in_the_hook(kill, before=False)
        try:
            for _ in range(20):
                watch.step()
        except RuntimeError as error:
            print("killed" if "is killed by signal" in str(error) else error, flush=True)
        os._exit(0)
    """
    done = train(tmp_path, script)
    assert done.stdout.split() == ["killed"], done.stderr


def test_a_storm_of_raising_handlers_leaves_a_spool_that_can_be_read(tmp_path: Path) -> None:
    """At any bytecode: no number is given out twice, no segment is torn, and the last words are there."""
    script = """
        def handler(number, frame):
            raise Preempted
        dice = random.Random(0)
        signal.signal(signal.SIGALRM, handler)
        watch._spool._segment_bytes = 20_000  # rotates often
        seen = 0
        end = time.monotonic() + 60
        while (seen <= 100 or watch._observer.samples <= 100) and time.monotonic() < end:
            try:
                signal.setitimer(signal.ITIMER_REAL, dice.expovariate(200) + 1e-4)
                for _ in range(3):
                    watch.step()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Preempted:
                seen += 1
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        watch.finish(accuracy=0.5)
        print(seen > 100, watch.status["mode"])
    """
    done = train(tmp_path, script)
    assert done.stdout.split() == ["True", "finished"], done.stderr
    found = bodies(read_whole(tmp_path))
    assert len(found) > 100
    assert dict(found[-1].end.results) == {"accuracy": 0.5}
