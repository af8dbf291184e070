"""`topowatch classes`: which runs of a group took the same route, and which did not."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from topowatch_monitor.commands.daemon import DEFAULT_URL, fetch_group
from topowatch_monitor.commands.group_page import group_page
from topowatch_monitor.commands.output import console, print_json
from topowatch_monitor.commands.read import (
    AsJson,  # noqa: TC001 - typer reads the annotations when it runs
    OfTenant,  # noqa: TC001
    Url,  # noqa: TC001
)


def classes(
    group: Annotated[str, typer.Argument(metavar="GROUP", help="Name of the group.")],
    tenant: OfTenant = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show the classes of a group's paths: table, outliers, evidence, spread of the results, dendrogram.

    Runs of one class can be deformed into each other within the territory that the group covers. Where the evidence is
    too thin nothing is claimed, and the reason stands there.

    For example:

      topowatch classes my-sweep

      topowatch classes my-sweep --json | jq .outliers
    """
    answer = fetch_group(url, group, tenant)
    if as_json:
        print_json(answer)
    else:
        terminal = console()
        terminal.print(group_page(answer, time.time(), terminal.width))
