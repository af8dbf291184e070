"""`topowatch backup`: a copy of a data directory, also of one that a daemon is writing to."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path  # noqa: TC003 - typer reads the annotations when it runs
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from topowatch_monitor import config
from topowatch_monitor.access import token_file
from topowatch_monitor.commands.output import CommandError, console
from topowatch_monitor.store.disk import OsDisk
from topowatch_monitor.store.log import segment_path, segment_starts

if TYPE_CHECKING:
    from collections.abc import Callable

LOG, SNAPSHOTS = "log", "snapshots"


def backup(
    target: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where to; an earlier backup there is brought up to date.")
    ],
    data_dir: Annotated[
        Path | None, typer.Option(help="The daemon's data directory; the default is that of `topowatch serve`.")
    ] = None,
) -> None:
    """Copy the log, the snapshots and the tokens of a daemon, which may go on meanwhile.

    Everything that was acked before this began is in the copy; audit.jsonl and denied.jsonl are not. To restore, start
    a daemon with the copy as its data directory. Segments of the log that are there already are not copied again.

    For example:

      topowatch backup /mnt/backups/topowatch --data-dir /var/lib/topowatch

      topowatch serve --data-dir /mnt/backups/topowatch
    """
    try:
        source = config.load({"data_dir": data_dir}).settings.data_dir
    except config.ConfigError as error:
        raise CommandError(str(error), status=2) from None
    if not (source / LOG).is_dir():
        raise CommandError(f"{source} holds no log: name the daemon's data directory with --data-dir", status=2)
    if target.resolve() == source.resolve():
        raise CommandError("a directory cannot be its own backup", status=2)
    if target.exists() and any(target.iterdir()) and not (target / LOG).is_dir():
        raise CommandError(f"{target} holds something else than a backup: name an empty directory", status=2)
    columns = (TextColumn("copying"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    terminal = console()
    with Progress(*columns, console=terminal, transient=True) as progress:
        size = sum(file.stat().st_size for file in (source / LOG).glob("*.seg"))
        task = progress.add_task("", total=size)
        copied = copy(source, target, lambda done: progress.update(task, completed=done))
    terminal.print(f"{target}: {copied:,} bytes of the log copied, the rest was there", markup=False, soft_wrap=True)


def copy(source: Path, target: Path, tell: Callable[[int], None] = lambda _: None) -> int:
    """Bring a backup up to date; return the bytes of the log that were copied.

    Snapshots come first, so that they know of no record that the copied log lacks.

    Raises:
        OSError: something cannot be read or written.
    """
    changed = [target / LOG, target / SNAPSHOTS, target, *([] if target.exists() else [target.parent])]
    for name in (LOG, SNAPSHOTS):
        (target / name).mkdir(parents=True, exist_ok=True)
    target.chmod(0o700)
    tokens = source / token_file.NAME
    for file in (tokens, tokens.with_suffix(token_file.LOCK)):
        if file.exists():
            _copy(file, target / file.name)
    _mirror(source / SNAPSHOTS, target / SNAPSHOTS)
    copied = done = 0
    starts = _segments(source / LOG)
    for first in starts:  # what a segment takes on after it was copied is missing, and so is all that follows it
        path, there = segment_path(source / LOG, first), segment_path(target / LOG, first)
        try:
            size = path.stat().st_size
            if first == starts[-1] or not there.exists() or there.stat().st_size != size:
                _copy(path, there)
                copied += size
        except FileNotFoundError:
            continue  # it left the log meanwhile
        done += size
        tell(done)
    for first in set(_segments(target / LOG)) - set(starts):
        segment_path(target / LOG, first).unlink()
    for directory in changed:  # a power cut now takes no name of a file that was copied
        OsDisk().sync_directory(directory)
    return copied


def _segments(directory: Path) -> list[int]:
    return segment_starts([file.name for file in directory.iterdir()])


def _mirror(source: Path, target: Path) -> None:
    """Make a folder hold the files of another, as far as they stay there; names of snapshots never change meaning."""
    names = {file.name for file in source.glob("*.snap")} if source.is_dir() else set()
    for name in names - {file.name for file in target.iterdir()}:
        with suppress(FileNotFoundError):  # a newer one took its place
            _copy(source / name, target / name)
    for file in target.iterdir():
        if file.name not in names:
            file.unlink()


def _copy(source: Path, target: Path) -> None:
    """Copy a file so that it is there whole or not at all."""
    partial = target.with_name(target.name + ".partial")
    shutil.copyfile(source, partial)
    partial.chmod(0o600)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(target)
