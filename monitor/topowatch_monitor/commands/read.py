"""`topowatch runs` and `topowatch show`: what a daemon knows."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from topowatch_monitor.commands.daemon import DEFAULT_URL, fetch_run, fetch_runs
from topowatch_monitor.commands.output import console, print_json
from topowatch_monitor.commands.render import run_page, runs_table
from topowatch_monitor.commands.slices import USUAL_SIDE, take_slice

Url = Annotated[str, typer.Option("--url", metavar="URL", help="HTTP address of the daemon.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
OfTenant = Annotated[
    str | None,
    typer.Option("--tenant", metavar="TENANT", help="Whose, where several tenants have a group of that name."),
]


def runs(
    group: Annotated[str | None, typer.Option(metavar="GROUP", help="Only runs of this group.")] = None,
    tenant: Annotated[str | None, typer.Option(metavar="TENANT", help="Only runs of this tenant.")] = None,
    *,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the runs that a daemon knows, with verdict, path numbers and flags.

    For example:

      topowatch runs

      topowatch runs --group my-sweep --json | jq '.runs[] | select(.minimum_unstable) | .run'
    """
    answer = fetch_runs(url, group, tenant)
    if as_json:
        print_json(answer)
    elif not answer["runs"]:
        where = ("" if tenant is None else f" of tenant {tenant!r}") + ("" if group is None else f" in group {group!r}")
        console().print(
            f"No run{where} has reported to {url} yet. Attach a job with topowatch_client.attach(model, optimizer), "
            "or try `topowatch simulate`.",
            markup=False,
        )
    else:
        terminal = console()
        terminal.print(runs_table(answer["runs"], answer["now"], terminal.width))


def show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of the run.")],
    group: Annotated[
        str | None, typer.Option(metavar="GROUP", help="Its group, where several groups have a run of that name.")
    ] = None,
    *,
    take: Annotated[
        bool, typer.Option("--slice", help="First have the job take a slice of its loss; it may take long.")
    ] = False,
    side: Annotated[int, typer.Option(metavar="N", help="Points along each side of the slice, odd.")] = USUAL_SIDE,
    tenant: OfTenant = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show one run: its state, flags with their reasons, path, scalars, and what watching it costs.

    With --slice, a random plane through the weights is sampled, filter-normalised (Li et al. 2018): one forward pass a
    point, within the job's overhead cap, so that it takes some thousand steps. A slice that was begun is taken to its
    end whether this command waits for it or not.

    For example:

      topowatch show seed-3

      topowatch show seed-3 --group my-sweep --json

      topowatch show seed-3 --slice
    """
    answer = take_slice(url, run, side, group, tenant) if take else fetch_run(url, run, group, tenant)
    if as_json:
        print_json(answer)
    else:
        console().print(run_page(answer, time.time()))
