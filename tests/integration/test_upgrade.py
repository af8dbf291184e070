"""Today's daemon goes on from the data directories of older ones; tests/data/older/make.py made them."""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from harness import Daemon, eventually
from sender import Sender, walk
from topowatch_protos.v1 import ingest_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ARCHIVES = sorted((Path(__file__).parents[1] / "data" / "older").glob("*.tar.xz"))
assert ARCHIVES
# What has meant the same since the first daemon.
SAME = (
    "group", "labels", "samples", "analysed", "dropped", "rejected", "step", "incarnation", "results", "loss",
    "probe_loss", "started_at", "last_received_at",
)  # fmt: skip
OF_PATHS = ("points", "length", "h0_total_persistence")
REFUSED = "the snapshot of virtual shard"


@dataclass(frozen=True)
class Older:
    """A daemon's data directory: which one's, what it told of its runs, and the last batch that it acked."""

    name: str
    directory: Path
    runs: dict[str, dict[str, Any]]
    batch: ingest_pb2.Batch


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.partition(".")[0])
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Older:
    """A copy of each directory in turn."""
    directory = tmp_path / "older"
    with tarfile.open(request.param) as archive:
        archive.extractall(directory, filter="data")
    runs = json.loads((directory / "runs.json").read_text())
    batch = ingest_pb2.Batch.FromString((directory / "batch").read_bytes())
    return Older(request.param.name.partition(".")[0], directory, runs, batch)


@pytest.fixture
def daemon(older: Older) -> Iterator[Daemon]:
    """Today's, on the older one's directory."""
    upgraded = Daemon(older.directory, "--engine", "inline").start()
    yield upgraded
    upgraded.stop()


def told(daemon: Daemon, older: Older) -> dict[str, dict[str, Any]]:
    """What a daemon tells of every run once it has caught up."""
    eventually(lambda: {run["run"] for run in daemon.get("/api/v1/runs")["runs"]} == older.runs.keys())
    for name, run in older.runs.items():
        eventually(lambda name=name, run=run: daemon.run(name).get("analysed") == run["analysed"])
    return {name: daemon.run(name) for name in older.runs}


def test_every_run_is_as_the_older_daemon_told_it(older: Older, daemon: Daemon) -> None:
    for name, run in told(daemon, older).items():
        before = older.runs[name]
        assert (run["state"] == "ended") == (before["state"] == "ended") == (name == "ended")
        for field in SAME:
            assert run[field] == pytest.approx(before[field], rel=1e-6), f"{name}.{field}"
        for path in ("path", "representation"):
            for field in OF_PATHS:
                assert run[path][field] == pytest.approx(before[path][field], rel=1e-5), f"{name}.{path}.{field}"
    usable = older.name == "2026-11-28"
    assert daemon.journal().count(REFUSED) == (0 if usable else 1)
    assert daemon.stop() == 0
    daemon.start()
    assert told(daemon, older).keys() == older.runs.keys()
    assert daemon.journal().count(REFUSED) == (0 if usable else 1), "snapshots have to be made again"


def test_what_an_older_client_sends_again_counts_once_and_it_goes_on(older: Older, daemon: Daemon) -> None:
    sender = Sender(daemon.grpc, "live", group="older")
    again = sender.push(older.batch)
    assert (again.status, again.duplicates) == (ingest_pb2.ACK_STATUS_STORED, len(older.batch.items))
    assert daemon.run("live")["samples"] == older.runs["live"]["samples"]
    sender.descriptor.CopyFrom(older.batch.descriptor)
    sender.next_seq = older.batch.items[-1].seq + 1
    sender.items = walk(0, start=sender.next_seq)
    sender.push_until_stored(sender.batch(10))
    for killed in (False, True):
        if killed:
            daemon.kill()
            daemon.start()
        assert sender.push(older.batch).duplicates == len(older.batch.items)
        run = eventually(lambda: (found := daemon.run("live")).get("analysed") == 60 and found)
        assert (run["samples"], run["step"]) == (60, 59)
    sender.close()


def test_commands_work_on_an_older_directory(
    older: Older, daemon: Daemon, run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    told(daemon, older)
    assert daemon.stop() == 0
    daemon.start()
    told(daemon, older)
    for name in older.runs:
        recording, table = str(tmp_path / "run.twrun"), tmp_path / "run.parquet"
        for file in (recording, str(table)):
            assert run("export", name, file, "--data-dir", str(daemon.data_dir))[0] == 0
        assert set(pq.read_table(table)["step"].to_pylist()) >= {0, older.runs[name]["step"]}
        status, said, error = run("replay", recording, "--verify", "--json", "--url", f"http://{daemon.http}")
        differing = [each["field"] for found in json.loads(said)["differences"].values() for each in found]
        # The first log does not say which of the items that a spool dropped are new: the daemon finds out, replay not.
        uncounted = (older.name, name) == ("2026-11-23", "gaps")
        assert (status, differing) == ((1, ["dropped"]) if uncounted else (0, [])), said + error
    copy = tmp_path / "copy"
    assert run("backup", str(copy / "data"), "--data-dir", str(daemon.data_dir))[0] == 0
    restored = Daemon(copy, "--engine", "inline").start()
    try:
        assert told(restored, older).keys() == older.runs.keys()
    finally:
        restored.stop()
