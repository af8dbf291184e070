"""`topowatch config check`: which settings would be in force, and why."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations when it runs
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from topowatch_monitor import config
from topowatch_monitor.commands.output import CommandError, console, print_json

app = typer.Typer(help="Look at the daemon's settings.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `config` a group of commands however few there are."""


@app.command()
def check(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="TOML file, as for serve --config.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Print the settings that `topowatch serve` would use and where each comes from; exit 1 if one is wrong.

    Environment variables are TOPOWATCH_MONITOR_ and the setting's name, such as TOPOWATCH_MONITOR_DATA_DIR.

    For example:

      topowatch config check

      topowatch config check /etc/topowatch.toml --json
    """
    try:
        loaded = config.load(file=file)
    except config.ConfigError as error:
        if as_json:
            print_json({"ok": False, "error": str(error)})
            raise typer.Exit(1) from None
        raise CommandError(str(error)) from None
    values = loaded.settings.model_dump(mode="json")
    if as_json:
        rows = {name: {"value": value, "from": loaded.origin[name]} for name, value in values.items()}
        print_json({"ok": True, "settings": rows})
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    terminal = console()
    wide = terminal.width >= 120
    for name in ("setting", "value", "from", "meaning") if wide else ("setting", "value", "from"):
        table.add_column(name, overflow="fold", no_wrap=name == "setting")
    for name, value in values.items():
        origin = loaded.origin[name]
        style = "dim" if origin == "default" else "green"
        row = [Text(name), Text("unset" if value is None else str(value)), Text(origin, style=style)]
        table.add_row(*row, *([Text(config.Settings.model_fields[name].description or "")] if wide else []))
    terminal.print(table)
