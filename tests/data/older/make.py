"""Makes data directories of older daemons, which tests/integration/test_upgrade.py starts today's on.

Run as `.venv/bin/python tests/data/older/make.py [NAME...]` in a clone with its whole history: each daemon runs from
its own commit. Each archive holds `data`, the directory as that daemon left it; `runs.json`, what it answered for each
run just before; and `batch`, the last batch that the run `live` sent, which the daemon acked.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
ROOMS = ("protos", "client", "monitor")
DIMENSION, POSITIONS = 64, 4
CONFIG = "segment_bytes = 65536\nsnapshot_seconds = 0.5\n"


class Version(NamedTuple):
    """A commit whose daemon leaves a directory behind."""

    commit: str
    ranks: int  # of the run `sharded`; 0 where the daemon knows of no such runs
    end: signal.Signals


VERSIONS = {
    # The first that answers: states of runs have no version, and the log does not say how many dropped items are new.
    "2026-11-23": Version("f1b0a4a", 0, signal.SIGTERM),
    # Path classes and sharded runs; the daemon was killed.
    "2026-11-26": Version("236be94", 2, signal.SIGKILL),
    # The last before runs could be forgotten.
    "2026-11-27": Version("5b641dd", 2, signal.SIGTERM),
    # Runs compute H₁ at samples of their own; its snapshots are of use today.
    "2026-11-28": Version("dbe7110", 2, signal.SIGTERM),
}


def make(name: str, version: Version) -> None:
    """Have an older daemon take the load, and keep what it leaves."""
    with tempfile.TemporaryDirectory() as temporary:
        tree, kept = Path(temporary) / "tree", Path(temporary) / "kept"
        kept.mkdir()
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), version.commit], check=True)
        try:
            _serve(tree, kept, version)
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)
        with tarfile.open(HERE / f"{name}.tar.xz", "w:xz") as archive:
            for entry in sorted(kept.iterdir()):
                archive.add(entry, entry.name, filter=_nobodys)


def _nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _serve(tree: Path, kept: Path, version: Version) -> None:
    config = kept.parent / "topowatch.toml"
    config.write_text(CONFIG)
    old = {**os.environ, "PYTHONPATH": os.pathsep.join(str(tree / room) for room in ROOMS)}
    addresses = ["--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    serve = ["serve", "--engine", "inline", "--data-dir", str(kept / "data"), "--config", str(config), *addresses]
    with subprocess.Popen(
        [sys.executable, "-m", "topowatch_monitor", *serve], env=old, stdout=subprocess.PIPE, text=True
    ) as daemon:
        try:
            _load(daemon, kept, version, old)
        except BaseException:
            daemon.kill()
            raise
        daemon.send_signal(version.end)


def _load(daemon: subprocess.Popen[str], kept: Path, version: Version, environment: dict[str, str]) -> None:
    assert daemon.stdout is not None
    ready = re.search(r"grpc=(\S+) http=(\S+)", daemon.stdout.readline())
    assert ready is not None
    sending = [sys.executable, __file__, "--send", ready[1], str(version.ranks), str(kept / "batch")]
    subprocess.run(sending, env=environment, check=True)
    runs = _settled(f"http://{ready[2]}/api/v1/runs")
    (kept / "runs.json").write_text(json.dumps(runs, indent=1, sort_keys=True))
    time.sleep(2.0)  # snapshots of each are written now and then


def _settled(url: str) -> dict[str, Any]:
    """What the daemon tells of each run, its clock aside, once that stays as it is."""
    before, told = {}, _told(url)
    while before != told or any(run["step"] is None for run in told.values()):
        time.sleep(1.0)
        before, told = told, _told(url)
    return told


def _told(url: str) -> dict[str, Any]:
    names = [run["run"] for run in httpx.get(url).raise_for_status().json()["runs"]]
    runs = {name: httpx.get(f"{url}/{name}").raise_for_status().json() for name in names}
    for run in runs.values():
        run.pop("now", None)
    return runs


def send(address: str, ranks: int, last_batch: Path) -> None:
    """Send the load, speaking as the version on the path does."""
    import grpc

    from topowatch_protos.v1 import ingest_pb2
    from topowatch_protos.v1.ingest_pb2_grpc import IngestServiceStub

    with grpc.insecure_channel(address) as channel:
        stub = IngestServiceStub(channel)
        for batch in _batches(ranks):
            request = ingest_pb2.StreamBatchesRequest(batch=batch)
            [answer] = stub.StreamBatches(iter([request]), timeout=30.0)
            assert answer.ack.status == ingest_pb2.ACK_STATUS_STORED, answer
    last_batch.write_bytes(batch.SerializeToString())


def _batches(ranks: int) -> Iterator[Any]:
    """A run that ended, one that went back, one with items refused and dropped, a sharded one, and one that goes on."""
    from topowatch_protos.v1 import sample_pb2

    end = sample_pb2.RunEnd(step=39, results={"test_accuracy": 0.9})
    yield _batch("ended", 0, [*_samples(0, 40), sample_pb2.Item(schema=1, end=end)])
    yield _batch("went-back", 0, _samples(0, 30))
    yield _batch("went-back", 30, _samples(20, 35), incarnation=2, start_step=20)
    dropped = sample_pb2.DroppedRange(incarnation=1, first_seq=11, last_seq=19)
    refused = sample_pb2.Item(schema=1, sample=sample_pb2.Sample(step=-1))
    yield _batch("gaps", 0, [*_samples(0, 10), refused])
    yield _batch("gaps", 20, [*_samples(20, 30), sample_pb2.Item(schema=1, dropped=dropped)])
    for rank in range(ranks):
        yield _batch("sharded", 0, _samples(0, 32, part=(rank, ranks)), rank=rank, ranks=ranks)
    for first in range(0, 50, 10):
        yield _batch("live", first, _samples(first, first + 10))


def _batch(
    run: str, first: int, items: list[Any], *, incarnation: int = 1, start_step: int = 0, rank: int = 0, ranks: int = 1
) -> Any:
    from topowatch_protos.v1 import ingest_pb2, run_pb2

    descriptor = run_pb2.RunDescriptor(
        key=run_pb2.RunKey(group="older", run=run),
        rank=rank,
        world_size=ranks,
        contributing_ranks=ranks,
        incarnation=incarnation,
        start_step=start_step,
        first_seq=first if incarnation > 1 else 0,
        writer_uuid=f"{rank:032x}",
        labels={"optimiser": "adam", "run": run},
        sketch=run_pb2.SketchSpec(dimension=DIMENSION),
        probe=run_pb2.ProbeSpec(positions=POSITIONS, outputs=3, kind=run_pb2.OUTPUT_KIND_LOGITS),
    )
    envelopes = [ingest_pb2.Envelope(seq=first + n, item=item.SerializeToString()) for n, item in enumerate(items)]
    return ingest_pb2.Batch(
        id=first,
        key=descriptor.key,
        rank=rank,
        incarnation=incarnation,
        writer_uuid=descriptor.writer_uuid,
        descriptor=descriptor,
        items=envelopes,
    )


def _samples(first: int, stop: int, part: tuple[int, int] = (0, 1)) -> list[Any]:
    """A sample a step of a random walk; of a rank's part of the weights, which rank 0 sends all else beside."""
    import numpy as np

    from topowatch_protos.v1 import sample_pb2

    rank, ranks = part
    steps = np.random.default_rng(0).normal(size=(64, DIMENSION)) / np.sqrt(1 + np.arange(64))[:, None]
    items = []
    for step in range(first, stop):
        point = steps[: step + 1].sum(axis=0)
        loss = 2.0 / (1 + step / 20)
        own = np.where(np.arange(DIMENSION) % ranks == rank, point, 0.0).astype("<f4")
        sample = sample_pb2.Sample(step=step, weights=sample_pb2.Sketch(values=own.tobytes()))
        if rank == 0:
            sample.scalars.add(name="loss", steps=[step], values=[loss])
            sample.predictions.sketch.values = np.cos(point).astype("<f4").tobytes()
            sample.probe_losses = np.full(POSITIONS, loss, dtype="<f4").tobytes()
        items.append(sample_pb2.Item(schema=1, sample=sample))
    return items


if __name__ == "__main__":
    if sys.argv[1:2] == ["--send"]:
        send(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    else:
        for chosen in sys.argv[1:] or VERSIONS:
            make(chosen, VERSIONS[chosen])
