"""The typer application: which commands there are, and how their errors end."""

from __future__ import annotations

import contextlib
import os
import sys
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated

import typer

from topowatch_monitor.commands import passed_on
from topowatch_monitor.commands.output import CommandError, complain

if TYPE_CHECKING:
    from collections.abc import Sequence

DAEMON, LOOK, DATA = "Daemon", "Look at runs", "Recordings and trials"
# As the help shows them: name, module and what it is called there, panel.
COMMANDS = (
    ("demo", "demo:demo", DAEMON),
    ("serve", "serve:serve", DAEMON),
    ("backup", "backup:backup", DAEMON),
    ("runs", "read:runs", LOOK),
    ("show", "read:show", LOOK),
    ("classes", "classes:classes", LOOK),
    ("forecast", "forecast:forecast", LOOK),
    ("compare", "by_label:compare", LOOK),
    ("report", "report:report", LOOK),
    ("classify", "classify:classify", DATA),
    ("simulate", "simulate:simulate", DATA),
    ("replay", "replay:replay", DATA),
    ("export", "export_run:export", DATA),
    ("config", "config_check:app", DAEMON),
    ("token", "token:app", DAEMON),
)


def application(command: str | None = None) -> typer.Typer:
    """Return the application with one command, or with all where it has none of that name: to import all takes long."""
    app = typer.Typer(
        name="topowatch",
        help="Watch training runs as paths: start a daemon, attach jobs to it, see which minima hold.",
        epilog="A first look: topowatch serve, in another terminal topowatch simulate, then http://127.0.0.1:7071",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        callback=_root,
    )
    for name, place, panel in [each for each in COMMANDS if each[0] == command] or COMMANDS:
        module, _, face = place.partition(":")
        found = getattr(import_module(f"topowatch_monitor.commands.{module}"), face)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel)(found)
    passed_on.register(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"topowatch {version('topowatch')}")
        raise typer.Exit


def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def run(arguments: Sequence[str]) -> int:
    """Run one command; return its exit status."""
    try:
        status = _call(arguments)
        sys.stdout.flush()  # here, where a full device can still be reported
    except BrokenPipeError:
        _let_go_of_output()  # whoever reads has seen enough
        return 1
    except UnicodeEncodeError as error:
        complain(f"the output has characters that {error.encoding} cannot write: set PYTHONIOENCODING=utf-8")
        return 1
    except OSError as error:
        _let_go_of_output()
        place = f"{error.filename}: " if error.filename else ""
        complain(f"{place}{error.strerror or error}")
        return 1
    return status


def _call(arguments: Sequence[str]) -> int:
    try:
        application(next(iter(arguments), None))(list(arguments), prog_name="topowatch")
    except CommandError as error:
        complain(str(error))
        return error.status
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _let_go_of_output() -> None:
    """Send what is still buffered nowhere, so that the interpreter's end does not fail on it again."""
    with contextlib.suppress(OSError, ValueError):  # standard output without a descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
