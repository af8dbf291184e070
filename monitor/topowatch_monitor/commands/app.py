"""The typer application: which commands there are, and how their errors end."""

from __future__ import annotations

import contextlib
import os
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated

import typer

from topowatch_monitor.commands import (
    backup,
    by_label,
    classes,
    classify,
    config_check,
    demo,
    export_run,
    forecast,
    passed_on,
    read,
    replay,
    report,
    serve,
    simulate,
    token,
)
from topowatch_monitor.commands.output import CommandError, complain

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    name="topowatch",
    help="Watch training runs as paths: start a daemon, attach jobs to it, see which minima hold.",
    epilog="A first look: topowatch serve, in another terminal topowatch simulate, then http://127.0.0.1:7071",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
DAEMON, LOOK, DATA = "Daemon", "Look at runs", "Recordings and trials"
app.command("demo", rich_help_panel=DAEMON)(demo.demo)
app.command("serve", rich_help_panel=DAEMON)(serve.serve)
app.add_typer(config_check.app, name="config", rich_help_panel=DAEMON)
app.command("backup", rich_help_panel=DAEMON)(backup.backup)
app.add_typer(token.app, name="token", rich_help_panel=DAEMON)
app.command("runs", rich_help_panel=LOOK)(read.runs)
app.command("show", rich_help_panel=LOOK)(read.show)
app.command("classes", rich_help_panel=LOOK)(classes.classes)
app.command("forecast", rich_help_panel=LOOK)(forecast.forecast)
app.command("compare", rich_help_panel=LOOK)(by_label.compare)
app.command("report", rich_help_panel=LOOK)(report.report)
app.command("classify", rich_help_panel=DATA)(classify.classify)
app.command("simulate", rich_help_panel=DATA)(simulate.simulate)
app.command("replay", rich_help_panel=DATA)(replay.replay)
app.command("export", rich_help_panel=DATA)(export_run.export)
passed_on.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"topowatch {version('topowatch')}")
        raise typer.Exit


@app.callback()
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
        app(list(arguments), prog_name="topowatch")
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
