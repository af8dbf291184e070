"""`topowatch config check`: which settings would be in force, and why."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations when it runs
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from topowatch_monitor import config
from topowatch_monitor.commands.config_toml import config_toml
from topowatch_monitor.commands.output import CommandError, console, print_json

app = typer.Typer(help="Look at the daemon's settings.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `config` a group of commands however few there are."""


@app.command()
def check(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="TOML file, as for serve --config.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    as_toml: Annotated[
        bool, typer.Option("--toml", help="Print a TOML file with all settings, the unit and the reason of each.")
    ] = False,
) -> None:
    """Print the settings that `topowatch serve` would use and where each comes from; exit 1 if one is wrong.

    Environment variables are TOPOWATCH_MONITOR_ and the setting's name, such as TOPOWATCH_MONITOR_DATA_DIR, with two
    underscores for a dot: TOPOWATCH_MONITOR_DETECT__LOSS_RISE__ALARM. Of the thresholds of detectors, the table has
    those that are not the defaults; --toml and --json have them all.

    For example:

      topowatch config check

      topowatch config check /etc/topowatch.toml --json

      topowatch config check --toml > topowatch.toml
    """
    if as_json and as_toml:
        raise CommandError("--json and --toml exclude each other", status=2)
    try:
        loaded = config.load(file=file)
    except config.ConfigError as error:
        if as_json:
            print_json({"ok": False, "error": str(error)})
            raise typer.Exit(1) from None
        raise CommandError(str(error)) from None
    values = loaded.values()
    if as_json:
        rows = {name: {"value": value, "from": loaded.origin[name]} for name, value in values.items()}
        print_json({"ok": True, "settings": rows})
        return
    if as_toml:
        sys.stdout.write(config_toml(loaded))
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    terminal = console()
    wide = terminal.width >= 120
    for name in ("setting", "value", "from", "meaning") if wide else ("setting", "value", "from"):
        table.add_column(name, overflow="fold", no_wrap=name == "setting")
    for name, value in values.items():
        origin = loaded.origin[name]
        if name in config.THRESHOLDS and value == config.THRESHOLDS[name].default:
            continue
        style = "dim" if origin == "default" else "green"
        row = [Text(name), Text("unset" if value is None else str(value)), Text(origin, style=style)]
        table.add_row(*row, *([Text(config.meaning(name))] if wide else []))
    terminal.print(table)
    usual = sum(values[name] == key.default for name, key in config.THRESHOLDS.items())
    terminal.print(Text(f"{usual} thresholds of detectors are the defaults: --toml lists them", style="dim"))
