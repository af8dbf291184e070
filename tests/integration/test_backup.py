"""A backup is taken while a daemon is written to, and a daemon goes on from it."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from harness import Daemon, eventually
from sender import Sender

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def backup(daemon: Daemon, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "topowatch_monitor", "backup", str(target), "--data-dir", str(daemon.data_dir)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_was_acked_before_a_backup_is_in_it_though_the_daemon_went_on(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    config = tmp_path / "small.toml"
    config.write_text("segment_bytes = 65536\nsnapshot_seconds = 0.1\n")
    daemon = make_daemon("--engine", "inline", "--config", str(config))
    sender, stop = Sender(daemon.grpc, "run"), threading.Event()

    def stream() -> None:
        while not stop.is_set():
            sender.push_until_stored(sender.batch(20))

    thread = threading.Thread(target=stream)
    thread.start()
    copy = tmp_path / "restored" / "data"
    try:
        for _ in range(2):  # the second brings the first up to date
            before = len(sender.acked)
            eventually(lambda before=before: len(sender.acked) > before + 100)
            acked = len(sender.acked)
            done = backup(daemon, copy)
            assert done.returncode == 0, done.stderr
    finally:
        stop.set()
        thread.join()
    restored = Daemon(copy.parent, "--engine", "inline", "--config", str(config)).start()
    try:
        eventually(lambda: restored.run("run")["analysed"] >= acked)
        assert restored.run("run")["samples"] <= len(sender.acked)
        assert not [file for file in copy.rglob("*") if file.suffix == ".partial"]
    finally:
        restored.stop()
        sender.close()


def test_a_backup_goes_over_nothing_else(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = make_daemon("--engine", "inline")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("mine")
    for target, said in ((tmp_path / "thesis", "something else"), (daemon.data_dir, "its own backup")):
        done = backup(daemon, target)
        assert done.returncode == 2
        assert said in done.stderr
    assert (tmp_path / "thesis" / "chapter").read_text() == "mine"
