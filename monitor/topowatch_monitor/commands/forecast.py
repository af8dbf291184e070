"""`topowatch forecast`: how the live runs of a group will end, which of them to stop, and how far to trust that."""

from __future__ import annotations

from typing import Annotated

import typer

from topowatch_monitor.commands.daemon import DEFAULT_URL, fetch_forecasts
from topowatch_monitor.commands.forecast_page import forecast_page
from topowatch_monitor.commands.output import console, print_json
from topowatch_monitor.commands.read import AsJson, Url  # noqa: TC001 - typer reads the annotations when it runs


def forecast(
    group: Annotated[str, typer.Argument(metavar="GROUP", help="Name of the group.")],
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show how the live runs of a group are forecast to end, the best first, and how good such forecasts have been.

    A forecast is learned from the group's ended runs; below 12 of them, and for a run that is unlike all of them,
    nothing is forecast, and the reason stands there. `topowatch show RUN` has that of one run.

    For example:

      topowatch forecast my-sweep

      topowatch forecast my-sweep --json | jq '.runs[] | select(.value > 0.9)'
    """
    answer = fetch_forecasts(url, group)
    if as_json:
        print_json(answer)
    else:
        console().print(forecast_page(answer))
