"""`topowatch export`: a run out of a data directory, as a recording or a table."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations when it runs
from typing import Annotated

import typer

from topowatch_monitor import config
from topowatch_monitor.commands.output import CommandError, console
from topowatch_monitor.commands.records import choose, keys_in, log_records, of_run


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of the run.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to write: its ending chooses the format.")],
    group: Annotated[
        str | None, typer.Option(metavar="GROUP", help="Its group, where several groups have a run of that name.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The daemon's data directory; default: where serve would look.")
    ] = None,
) -> None:
    """Write a run from a daemon's data directory to a file, also while the daemon runs.

    FILE.twrun is a recording: everything that the daemon stored of the run, for `topowatch replay`. FILE.parquet is a
    table: a row a step with its scalars, and the weight sketch as a vector where there is a sample.

    For example:

      topowatch export seed-3 seed-3.twrun

      topowatch export seed-3 seed-3.parquet --data-dir /var/lib/topowatch
    """
    if file.suffix not in {".twrun", ".parquet"}:
        raise CommandError(f"{file} ends in neither .twrun (recording) nor .parquet (table)", status=2)
    try:
        directory = config.load({"data_dir": data_dir}).settings.data_dir
    except config.ConfigError as error:
        raise CommandError(str(error), status=2) from None
    key = choose(keys_in(log_records(directory)), run, group, str(directory))
    records = of_run(log_records(directory), key)
    partial = file.with_name(file.name + ".partial")
    try:
        if file.suffix == ".twrun":
            from topowatch_monitor.store.recording import write_recording

            wrote = f"{write_recording(partial, records):,} records"
        else:
            from topowatch_monitor.export.run_table import RunTable
            from topowatch_monitor.store.parquet import write_parquet

            table = RunTable().add(records).table()
            write_parquet(partial, table)
            wrote = f"{table.num_rows:,} steps, {table.num_columns} columns"
        partial.replace(file)
    except OSError as error:
        raise CommandError(f"cannot write {file}: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
    console().print(f"{file}: {wrote}", markup=False, soft_wrap=True)
