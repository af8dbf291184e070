"""A data directory that a newer version has written to: refused or passed over in words, and nothing of it is lost."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from harness import Daemon, eventually, topowatch
from sender import Sender
from topowatch_monitor.engine import codec
from topowatch_monitor.engine.shard import STATE
from topowatch_monitor.store.disk import OsDisk
from topowatch_monitor.store.log import Log, segment_path, segment_starts
from topowatch_monitor.store.reader import LogReader
from topowatch_monitor.store.snapshots import SnapshotStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SMALL = "segment_bytes = 65536\n"
NEWER_KIND = 99
REMEMBERED = b"what only a newer version knows"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a daemon has left that took a run of 300 samples, over several segments, and stopped."""
    directory = tmp_path_factory.mktemp("written")
    (directory / "small.toml").write_text(SMALL)
    daemon = Daemon(directory, *flags(directory)).start()
    try:
        sender = Sender(daemon.grpc, "run")
        for _ in range(3):
            sender.push_until_stored(sender.batch(100))
        sender.close()
        eventually(lambda: daemon.run("run").get("analysed") == 300)
    finally:
        assert daemon.stop() == 0
    return directory


@pytest.fixture
def left(written: Path, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that has stopped on a copy of that."""
    directory = tmp_path / "daemon"
    shutil.copytree(written, directory)
    (directory / "daemon.log").unlink()
    daemon = Daemon(directory, *flags(directory))
    yield daemon
    if daemon.process is not None:
        daemon.stop()


def flags(directory: Path) -> tuple[str, ...]:
    return "--engine", "inline", "--config", str(directory / "small.toml")


def content(directory: Path) -> dict[str, bytes]:
    """Every file below a directory that tells more than who holds it."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_a_newer_log_is_refused_in_words_and_stays_as_it_is(left: Daemon, tmp_path: Path) -> None:
    first = segment_starts([path.name for path in (left.data_dir / "log").iterdir()])[0]
    path = segment_path(left.data_dir / "log", first)
    path.write_bytes(b"TOPOSEG2" + path.read_bytes()[8:])
    before = content(left.data_dir)
    serve = ("serve", "--engine", "inline", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0")
    export = ("export", "run", str(tmp_path / "run.parquet"))
    for command in (serve, export):
        done = topowatch(*command, "--data-dir", str(left.data_dir))
        assert done.returncode == 2
        assert "is of version 2 of the log's format" in done.stderr
        assert "use the topowatch that wrote it, or a backup" in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr
        assert "--data-dir" not in done.stderr, "another directory is not what to try"
    assert content(left.data_dir) == before


def test_records_of_newer_kinds_are_passed_over_in_words_and_kept_though_old_ones_go(
    left: Daemon,
) -> None:
    log = Log.open(left.data_dir / "log", OsDisk())
    log.append([(NEWER_KIND, REMEMBERED)])
    place = log.next_offset - 1
    log.close()
    left.start()
    assert f"kinds that this version does not know ({NEWER_KIND})" in left.journal()
    run = eventually(lambda: (found := left.run("run")).get("analysed") == 300 and found)
    assert (run["samples"], run["step"]) == (300, 299)
    assert left.stop() == 0
    (left.directory / "small.toml").write_text(f"{SMALL}retention_days = {5 / 86_400}\n")
    left.start()
    sender = Sender(left.grpc, "other", seed=1)

    def one_more() -> bool:
        sender.push_until_stored(sender.batch(100))
        return not any(run["run"] == "run" for run in left.get("/api/v1/runs")["runs"])

    eventually(one_more, every=0.5)
    whole = left.metric("topowatch_log_bytes")
    eventually(lambda: left.metric("topowatch_log_bytes") < whole, every=0.5)
    sender.close()
    assert left.stop() == 0
    records = LogReader(left.data_dir / "log", OsDisk()).read(0, 1 << 62)
    assert (place, NEWER_KIND, REMEMBERED) in records


@pytest.mark.parametrize("newer", ["state", "codec"])
def test_newer_snapshots_are_passed_over_in_words_and_made_again(
    left: Daemon, newer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SnapshotStore(left.data_dir / "snapshots", OsDisk())
    [shard] = [number for number in store.shards() if number < 256]
    found = store.load(shard)
    assert found is not None
    offset, saved = found
    state = codec.decode(saved)
    if newer == "codec":
        monkeypatch.setattr(codec, "FORMAT", codec.FORMAT + 1)
    else:
        state["state"] = STATE + 1
    store.save(shard, offset, codec.encode(state))
    before = {path.name: path.read_bytes() for path in (left.data_dir / "log").glob("*.seg")}
    left.start()
    run = eventually(lambda: (found := left.run("run")).get("analysed") == 300 and found)
    assert (run["samples"], run["step"]) == (300, 299)
    assert left.journal().count("made again from the log") == 1
    assert left.stop() == 0
    assert {path.name: path.read_bytes() for path in (left.data_dir / "log").glob("*.seg")} == before
    left.start()
    eventually(lambda: left.run("run").get("analysed") == 300)
    assert left.journal().count("made again from the log") == 1
