"""`sync`, `forward` and `doctor` belong to the client; they are listed here so that one help shows all."""

from __future__ import annotations

import typer

CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def _pass_on(context: typer.Context) -> None:
    from topowatch_client.cli import main

    raise typer.Exit(main([context.info_name or "", *context.args]))


def register(app: typer.Typer) -> None:
    """Add the client's commands to the application."""
    for name, meaning in (
        ("sync", "Send what a spool directory holds to a daemon, then end."),
        ("forward", "Keep sending what jobs write to a spool directory (sidecar, DaemonSet)."),
        ("doctor", "Check this host: torch, spool, daemon; say what to do about each finding."),
    ):
        app.command(name, help=meaning, context_settings=CONTEXT, rich_help_panel="In or beside a training job")(
            _pass_on
        )
