"""`topowatch demo`: see it work on real training."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from topowatch_monitor.commands.output import CommandError, console


def demo(
    *,
    steps: Annotated[int, typer.Option(min=200, help="Optimiser steps of each training.")] = 4000,
    stay: Annotated[
        bool | None, typer.Option("--stay/--no-stay", help="Keep the daemon up at the end. Default: in a terminal.")
    ] = None,
) -> None:
    """Start a daemon, train four small networks on scikit-learn's digits and show what topowatch says of them.

    Two are healthy, one has a learning rate that climbs until it leaves its minimum, one learns 40 % random labels.
    Each is a process of its own, attached with one line. Takes about two minutes; Ctrl-C leaves nothing behind.
    """
    from topowatch_monitor.demo.processes import DemoError
    from topowatch_monitor.demo.show import run_demo

    try:
        run_demo(console(), steps=steps, stay=sys.stdout.isatty() if stay is None else stay)
    except DemoError as error:
        raise CommandError(str(error)) from None
    except KeyboardInterrupt:
        console().print("Stopped.")
        raise typer.Exit(130) from None
