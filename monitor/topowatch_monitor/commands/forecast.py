"""`topowatch forecast`: how live runs will end, which of them to stop, and how far to trust that."""

from __future__ import annotations

from typing import Annotated

import typer

from topowatch_monitor.commands.daemon import DEFAULT_URL, fetch_fleet_forecasts, fetch_forecasts, fetch_run, fetch_runs
from topowatch_monitor.commands.forecast_page import fleet_page, forecast_page, run_forecast_page
from topowatch_monitor.commands.output import CommandError, console, print_json
from topowatch_monitor.commands.read import (
    AsJson,  # noqa: TC001 - typer reads the annotations when it runs
    OfTenant,  # noqa: TC001
    Url,  # noqa: TC001
)


def forecast(
    name: Annotated[
        str | None, typer.Argument(metavar="[RUN|GROUP]", help="Name of a group or of a run; all groups without it.")
    ] = None,
    group: Annotated[str | None, typer.Option(metavar="GROUP", help="The run's group, where that is needed.")] = None,
    tenant: OfTenant = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show how live runs are forecast to end, the best first, which to stop, and how good such forecasts have been.

    A forecast is learned from the group's ended runs; where fewer than 12 have ended, from those of three other groups
    or more. Of a run that is unlike all of them nothing is forecast, and the reason stands there. A run may say how
    many steps it takes, which result counts, whether more of it is better, and what it is to reach, by the labels
    total_steps, forecast_metric, forecast_goal (max or min) and forecast_target.

    For example:

      topowatch forecast

      topowatch forecast my-sweep

      topowatch forecast seed-3 --group my-sweep

      topowatch forecast my-sweep --json | jq '.runs[] | select(.value > 0.9)'
    """
    if name is None:
        fleet = fetch_fleet_forecasts(url)
        print_json(fleet) if as_json else console().print(fleet_page(fleet))
    elif group is None and name in {run["group"] for run in fetch_runs(url)["runs"]}:
        answer = fetch_forecasts(url, name, tenant)
        print_json(answer) if as_json else console().print(forecast_page(answer))
    else:
        _show_run(url, name, group, as_json=as_json)


def _show_run(url: str, name: str, group: str | None, *, as_json: bool) -> None:
    try:
        run = fetch_run(url, name, group)
    except CommandError as error:
        if group is None and str(error).startswith("no run"):
            raise CommandError(
                f"no run or group {name!r} is known to the daemon at {url}: `topowatch runs` lists those that are"
            ) from None
        raise
    if as_json:
        print_json({"run": run["run"], "group": run["group"], "at": run["step"], **run["forecast"]})
    else:
        console().print(run_forecast_page(run, fetch_forecasts(url, run["group"], run["tenant"])))
