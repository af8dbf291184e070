"""Spools on real disks that are full, or turn read-only in mid-run: training does not notice, and loss is counted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import pytest

from client_daemon import RecordingDaemon, eventually
from harness import unavailable
from topowatch_client import spawn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TRAINING = """
    import sys, time
    import torch
    import topowatch_client

    watch = topowatch_client.attach(torch.nn.Linear(8, 8), run="r", config={"interval": 1})
    for line in sys.stdin:
        for _ in range(20):
            watch.step()
        print("stepped", flush=True)
    began = time.monotonic()
    watch.finish(accuracy=0.5)
    print(time.monotonic() - began < 5, watch.status["mode"], watch.status["samples"], watch.status["dropped"])
"""


WRITER = """
    import sys
    from pathlib import Path
    from topowatch_client import messages, spool
    from topowatch_protos.v1 import sample_pb2

    writer = spool.SpoolWriter(Path(sys.argv[1]), "w", {"endpoint": sys.argv[2], "mode": "online"}, 16 << 20)
    facts = messages.RunFacts("g", "r", 0, 1, 1, "w", {}, 1021, 0, 10)
    writer.begin(1, messages.encode_descriptor(facts, incarnation=1, start_step=0, first_seq=0, probe=None))
    for step in range(2000):
        sample = sample_pb2.Sample(step=step, probe_losses=bytes(4000))
        writer.append(sample_pb2.Item(schema=1, sample=sample).SerializeToString())
    writer.append(messages.encode_end(1999, {"accuracy": 0.5}), vital=True)
    writer.close(ended=True)
    print(writer.next_seq, writer.dropped)
"""


def mounted(tmp_path: Path, *commands: list[str]) -> Path:
    """Mount a disk by these commands, which end in the directory that is made for it."""
    directory = tmp_path / "disk"
    directory.mkdir()
    if any(subprocess.run([*words, directory], capture_output=True, check=False).returncode for words in commands):
        unavailable("mounting a disk of its own takes root")
    return directory


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MiB."""
    directory = mounted(tmp_path, ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs"])
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.fixture
def ext4_disk(tmp_path: Path) -> Iterator[Path]:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    if shutil.which("mkfs.ext4") is None or subprocess.run(["mkfs.ext4", "-q", image], check=False).returncode:
        unavailable("mkfs.ext4 makes the disk")
    directory = mounted(tmp_path, ["mount", "-o", "loop", str(image)])
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


def test_what_a_full_disk_costs_is_told_to_the_daemon_and_the_rest_arrives(full_disk: Path) -> None:
    """8 MB are written to a disk of 6 while nobody ships: the forwarder starts on the full disk and empties it."""
    daemon = RecordingDaemon().start()
    try:
        arguments = [str(full_disk / "spool"), daemon.endpoint]
        written = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(WRITER), *arguments], capture_output=True, text=True, check=True
        )
        next_seq, dropped = (int(word) for word in written.stdout.split())
        assert dropped > 300
        command = [sys.executable, "-m", "topowatch_client.forwarder", arguments[0], "--grace", "0"]
        subprocess.run(command, stderr=subprocess.DEVNULL, timeout=60, check=True)
        bodies = daemon.bodies()
        ranges = [body.dropped for body in bodies if body.HasField("dropped")]
        told = {seq for lost in ranges for seq in range(lost.first_seq, lost.last_seq + 1)}
        assert set(daemon.seqs) | told == set(range(next_seq))
        assert not set(daemon.seqs) & told
        assert len(told) == dropped
        assert dict(bodies[-1].end.results) == {"accuracy": 0.5}
        assert any(body.sample.step == 1999 for body in bodies)
    finally:
        daemon.stop()


def test_a_disk_that_turns_read_only_costs_samples_which_are_counted(ext4_disk: Path) -> None:
    """What was written before arrives once, although the forwarder can note nothing and remove nothing any more."""
    spool_dir, daemon = ext4_disk / "spool", RecordingDaemon().start()
    settings = {"TOPOWATCH_ENDPOINT": daemon.endpoint, "TOPOWATCH_SPOOL_DIR": str(spool_dir)}
    training = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(TRAINING)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **settings},
    )
    forwarder = None
    try:
        assert training.stdin is not None
        assert training.stdout is not None
        daemon.stop()
        training.stdin.write("\n")
        training.stdin.flush()
        assert training.stdout.readline() == "stepped\n"
        eventually(lambda: spawn.forwarder_pid(spool_dir))
        forwarder = spawn.forwarder_pid(spool_dir)
        subprocess.run(["mount", "-o", "remount,abort", str(ext4_disk)], check=True)
        daemon.start()
        out, _ = training.communicate("\n", timeout=60)
        assert training.returncode == 0
        stepped, in_time, mode, samples, dropped = out.split()
        assert (stepped, in_time, mode, samples) == ("stepped", "True", "finished", "19")
        assert int(dropped) >= 21  # the last sample of before was still to be put away
        eventually(lambda: len(daemon.seqs) == 19, 60)
        batches = daemon.batches
        time.sleep(2)
        assert daemon.batches == batches
    finally:
        training.kill()
        training.communicate()
        if forwarder is not None:
            os.kill(forwarder, signal.SIGKILL)
        daemon.stop()
