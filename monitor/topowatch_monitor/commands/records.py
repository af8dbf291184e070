"""Finding one run's records among those of a log or a recording."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from topowatch_monitor.commands.output import CommandError
from topowatch_monitor.store.disk import OsDisk
from topowatch_monitor.store.log import LogVersionError, check_versions, segment_starts
from topowatch_monitor.store.reader import LogReader
from topowatch_protos.framing import LogKind
from topowatch_protos.keys import key_of as run_key_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from topowatch_monitor.store.log import Record

Key = tuple[str, str, str]  # tenant, group, run
WHOLE_LOG = 1 << 62


def key_of(record: Record) -> Key | None:
    """Return the run that a record is about; None for one about the whole daemon.

    Raises:
        google.protobuf.message.DecodeError: the payload is not a message of its kind.
    """
    key = run_key_of(record.kind, record.payload)
    return None if key is None else (key.tenant, key.group, key.run)


def of_run(records: Iterable[Record], key: Key) -> Iterator[Record]:
    """Yield the records about one run, and the decisions about the whole daemon, which its state may depend on.

    Of a run that was forgotten and came again, those since then.
    """
    kept: list[Record] = []
    for record in records:
        found = key_of(record)
        if found == key and record.kind == LogKind.RUN_FORGOTTEN:
            kept.clear()
        elif found == key or (found is None and record.kind == LogKind.DECISION):
            kept.append(record)
    yield from kept


def by_run(records: Iterable[Record]) -> dict[Key, list[Record]]:
    """Return what `of_run` yields of each run that `records` open, sorted by key."""
    keyed = [(key_of(record), record) for record in records]
    found: dict[Key, list[Record]] = {key: [] for key in keys_in(record for _, record in keyed)}
    for key, record in keyed:
        if key in found and record.kind == LogKind.RUN_FORGOTTEN:
            found[key].clear()
        elif key in found:
            found[key].append(record)
        elif key is None and record.kind == LogKind.DECISION:
            for each in found.values():
                each.append(record)
    return found


def keys_in(records: Iterable[Record]) -> list[Key]:
    """Return the runs that `records` open and do not forget, sorted."""
    found: set[Key] = set()
    for record in records:
        if record.kind in (LogKind.RUN_OPENED, LogKind.RUN_FORGOTTEN) and (key := key_of(record)):
            (found.add if record.kind == LogKind.RUN_OPENED else found.discard)(key)
    return sorted(found)


def choose(keys: Iterable[Key], run: str, group: str | None, where: str) -> Key:
    """Return the one key of that run (and group); raises CommandError where there is none or more than one."""
    named = [key for key in keys if key[2] == run and group in {None, key[1]}]
    if not named:
        raise CommandError(f"{where} has no run {run!r}" + ("" if group is None else f" in group {group!r}"))
    if len(named) > 1:
        groups = ", ".join(key[1] for key in named)
        raise CommandError(f"{where} has several runs {run!r}: name the group with --group ({groups})")
    return named[0]


def log_records(data_dir: Path) -> Iterator[Record]:
    """Yield every record of a data directory's log, also while a daemon writes it; raises CommandError."""
    directory = data_dir / "log"
    if not directory.is_dir():
        raise CommandError(f"{data_dir} holds no log: name the daemon's data directory with --data-dir", status=2)
    disk = OsDisk()
    try:
        check_versions(directory, disk, segment_starts(disk.names(directory)))
        yield from LogReader(directory, disk).read(0, WHOLE_LOG)
    except LogVersionError as error:
        raise CommandError(str(error), status=2) from None
    except OSError as error:
        raise CommandError(f"cannot read the log in {directory}: {error}", status=2) from None
    except DecodeError as error:
        raise CommandError(f"the log in {directory} holds a record that this version cannot read: {error}") from None
