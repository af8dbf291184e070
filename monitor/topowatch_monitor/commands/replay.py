"""`topowatch replay`: what a daemon would say of recorded runs, under other thresholds too."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003 - typer reads the annotations when it runs
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from topowatch_monitor import config
from topowatch_monitor.commands.compare import Difference, differences
from topowatch_monitor.commands.daemon import fetch_run
from topowatch_monitor.commands.marks import assign, read_marks
from topowatch_monitor.commands.output import CommandError, console, print_json
from topowatch_monitor.commands.records import Key, choose, keys_in, of_run
from topowatch_monitor.commands.render import run_page
from topowatch_monitor.commands.render_scores import flags_table, scores_table
from topowatch_monitor.export.fleet import verdict
from topowatch_monitor.export.strict_json import dumps

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from topowatch_monitor.engine.told import RunSettings
    from topowatch_monitor.engine.view import RunView
    from topowatch_monitor.store.log import Record

OF_THE_DAEMON = ("verdict", "analysed")  # not part of the state
OF_THE_GROUP = ("path_class", "forecast")  # depend on the siblings, which are not in the recording


def replay(
    *,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Recordings, as `topowatch export RUN FILE` writes them.")
    ],
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Which run, where there are several.")] = None,
    group: Annotated[str | None, typer.Option(metavar="GROUP", help="Its group, where that is needed.")] = None,
    events: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Which runs went wrong and when: .csv, .json or .toml. Scores the detectors."
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compute the state in other ways too and exit 1 if any differs.")
    ] = False,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="With --verify: compare with this daemon's state of the run too.")
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", help="The daemon's TOML file, or one with other thresholds under [detect]."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Compute what a daemon would say of recorded runs, without one: of one run its page, of several all flags.

    --config tries other windows and thresholds. --events holds the flags against what is known of the runs: a file with
    the columns run, onset (the step at which it went wrong, or healthy) and, if you like, departure (the step at which
    the loss was lost; else it is looked for in the losses) and group. Printed are, for each detector, precision,
    recall, the lead from flag to departure, and false alarms per 10,000 healthy steps. What goes on before the onset is
    a false alarm. In a run that was rolled back, a mark is of the first life that came to its step.

    --verify computes a run a second time with a snapshot and a restore half way, and with --url compares it with what
    a daemon says: discrete fields exactly, floats to 1e-6 of their size.

    For example:

      topowatch replay seed-3.twrun

      topowatch replay seed-3.twrun --verify --url http://127.0.0.1:7071

      topowatch replay *.twrun --config other.toml --events events.csv
    """
    if url is not None and not verify:
        raise CommandError("--url is for --verify: add it, or use `topowatch show`", status=2)
    if events is not None and (verify or run is not None or group is not None):
        raise CommandError("--events scores all runs that it marks: leave --verify, --run and --group out", status=2)
    settings = _run_settings(config_file)
    held = _held(files)
    keys = [key for each in held.values() for key in each if group in {None, key[1]}]
    if not keys:
        raise CommandError(f"{_named(files)} holds no run" + ("" if group is None else f" of group {group!r}"))
    if events is not None or (run is None and not verify and len(keys) > 1):
        _show_many(held, keys, settings, events, as_json=as_json)
    else:
        key = choose(keys, run, group, _named(files)) if run is not None else _only(keys, files)
        file = next(file for file, each in held.items() if key in each)
        _show(key, list(of_run(_records(file), key)), settings, verify=verify, url=url, as_json=as_json)


def _show_many(
    files: Iterable[Path], keys: Sequence[Key], settings: RunSettings, events: Path | None, *, as_json: bool
) -> None:
    """Show the flags of many runs or, where a file marks what went wrong, how well they fit that."""
    from topowatch_monitor.commands.replay_many import flags_json, replay_all, score_all, scores_json

    marked = None if events is None else (assign(read_marks(events), keys, events), events)
    terminal = console()
    runs = replay_all(files, _records, settings, keys=keys, terminal=terminal, quiet=as_json)
    if marked is None:
        print_json(flags_json(runs)) if as_json else terminal.print(flags_table(runs))
    else:
        scores = score_all(runs, *marked)
        print_json(scores_json(scores)) if as_json else terminal.print(scores_table(scores))


def _show(
    key: Key, records: Sequence[Record], settings: RunSettings, *, verify: bool, url: str | None, as_json: bool
) -> None:
    """Show one run, and what differs where it is computed in other ways."""
    view = _view_of(key, records, settings)
    checks: dict[str, list[Difference]] = {}
    if verify:
        restored = _view_of(key, records, settings, restore_at=len(records) // 2)
        checks["snapshot and restore half way"] = differences(view, restored)
    if url is not None:
        served = fetch_run(url, view["run"], view["group"])
        checks[f"daemon at {url}"] = differences(_as_served(view), _comparable(served))
    if as_json:
        found = {name: [one._asdict() for one in many] for name, many in checks.items()}
        print_json(json.loads(dumps({"view": view, **({"differences": found} if verify else {})})))
    else:
        _print(view, len(records), checks)
    if any(checks.values()):
        raise typer.Exit(1)


def _print(view: RunView, records: int, checks: dict[str, list[Difference]]) -> None:
    terminal = console()
    terminal.print(run_page({**view, "verdict": verdict(view)}, now=None))
    for name, found in checks.items():
        if not found:
            terminal.print(Text.assemble("\n", ("✓ ", "green"), f"{name}: the same state from {records:,} records"))
            continue
        terminal.print(Text.assemble("\n", ("× ", "bold red"), f"{name}: {len(found)} fields differ"))
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for title in ("field", "replayed", "other"):
            table.add_column(title, overflow="fold")
        for one in found:
            table.add_row(Text(one.field), Text(repr(one.first)), Text(repr(one.second)))
        terminal.print(table)


def _records(file: Path) -> list[Record]:
    from topowatch_monitor.store.recording import RecordingDamagedError, read_recording

    try:
        return list(read_recording(file))
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}", status=2) from None
    except RecordingDamagedError as error:
        raise CommandError(str(error), status=2) from None


def _held(files: Sequence[Path]) -> dict[Path, list[Key]]:
    """Return the runs that each file holds; raises CommandError for a run that two of them hold."""
    held: dict[Path, list[Key]] = {}
    for file in files:
        keys = keys_in(_records(file))
        for other, known in held.items():
            for key in set(known).intersection(keys):
                raise CommandError(f"{other} and {file} both hold run {key[2]!r} of group {key[1]!r}", status=2)
        held[file] = keys
    return held


def _only(keys: Sequence[Key], files: Sequence[Path]) -> Key:
    if len(keys) > 1:
        names = ", ".join(sorted({key[2] for key in keys}))
        raise CommandError(f"{_named(files)} holds {len(keys)} runs: name one with --run ({names})", status=2)
    return keys[0]


def _named(files: Sequence[Path]) -> str:
    return ", ".join(map(str, files))


def _run_settings(file: Path | None) -> RunSettings:
    """Return how much of a run a daemon with this config file looks at."""
    from topowatch_monitor.engine.path_state import PathSettings
    from topowatch_monitor.engine.told import RunSettings

    try:
        told = config.load(file=file).settings
    except config.ConfigError as error:
        raise CommandError(str(error), status=2) from None
    path = PathSettings(window=told.path_window, h1_every=told.h1_every, h1_landmarks=told.h1_landmarks)
    return RunSettings(path=path, history=told.history_window, thresholds=told.detect)


def _view_of(key: Key, records: Sequence[Record], settings: RunSettings, restore_at: int | None = None) -> RunView:
    """Apply `records` to a new state and return its view; replaced by its own snapshot before record `restore_at`."""
    from topowatch_monitor.engine import codec
    from topowatch_monitor.engine.run_state import RunState

    state = RunState(*key, settings)
    for number, record in enumerate(records):
        if number == restore_at:
            state = RunState.from_state(codec.decode(codec.encode(state.state_dict())), settings)
        state.apply(record.kind, record.payload)
    return state.view()


def _as_served(view: RunView) -> dict[str, Any]:
    """Return the view as it comes out of JSON, where NaN and infinities are null."""
    return _comparable(json.loads(dumps(view)))


def _comparable(view: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what the clock, the daemon and the run's siblings add to its state."""
    kept = {name: value for name, value in view.items() if name not in {*OF_THE_DAEMON, *OF_THE_GROUP}}
    kept["samples"] = view.get("analysed", view["samples"])
    kept["state"] = "live" if view["state"] == "lost" else view["state"]
    kept["flags"] = [flag for flag in view["flags"] if flag["detector"] != "stalled_run"]
    return kept
