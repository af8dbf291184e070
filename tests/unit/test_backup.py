"""`topowatch backup`: what it says is copied is there after a power cut."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from topowatch_monitor.commands.backup import LOG, SNAPSHOTS, copy
from topowatch_monitor.store.log import segment_path

if TYPE_CHECKING:
    import pytest


def test_all_files_of_a_backup_and_the_names_by_which_they_are_found_are_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "data", tmp_path / "elsewhere" / "copy"
    for directory in (LOG, SNAPSHOTS):
        (source / directory).mkdir(parents=True)
    for file in (segment_path(source / LOG, 0), segment_path(source / LOG, 9), source / SNAPSHOTS / "1.snap"):
        file.write_bytes(b"content")
    (source / "tokens.json").write_text("{}")
    flushed: dict[int, object] = {}
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        flushed[path.stat().st_ino] = sorted(path.iterdir()) if path.is_dir() else path.stat().st_size
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    copy(source, target)
    there = [target.parent, target, *target.rglob("*")]
    assert len(there) == 8
    for path in there:
        assert flushed[path.stat().st_ino] == (sorted(path.iterdir()) if path.is_dir() else path.stat().st_size), path
