"""`topowatch simulate`: synthetic runs against a daemon."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from topowatch_monitor.commands.daemon import own_access
from topowatch_monitor.commands.output import CommandError, console, print_json
from topowatch_monitor.commands.sending import SendingError, Totals, UnreachableError, send_fleet
from topowatch_monitor.simulate import DIMENSION, FAILING, fleet


def simulate(
    *,
    runs: Annotated[int, typer.Option(min=1, help="Runs, all at the same time.")] = 8,
    samples: Annotated[int, typer.Option(min=1, help="Samples a run.")] = 200,
    rate: Annotated[
        float, typer.Option(min=0, help="Samples a second over all runs together; 0: as fast as the daemon takes them.")
    ] = 100.0,
    failing: Annotated[float, typer.Option(min=0, max=1, metavar="SHARE", help="Share of the runs that fail.")] = 0.25,
    probes: Annotated[int, typer.Option(min=0, help="Probe positions a sample; 0: none.")] = 0,
    ranks: Annotated[
        int, typer.Option(min=1, max=DIMENSION, help="Ranks that share the model of each run; each sends its part.")
    ] = 1,
    group: Annotated[str, typer.Option(metavar="GROUP", help="Group of the runs.")] = "simulated",
    endpoint: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="gRPC address of the daemon.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed sends the same numbers.")] = 0,
    prefix: Annotated[str, typer.Option(help="Put before each run's name, to send the same runs again.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, for programs.")] = False,
) -> None:
    """Send synthetic runs to a daemon: to fill the page without a job, try alerts, or measure load.

    Healthy runs contract to a minimum or orbit it; failing ones go not-a-number, explode, never learn, rise from
    their minimum or fall silent, in turn.

    For example:

      topowatch simulate

      topowatch simulate --runs 1000 --samples 60 --rate 100 --failing 0.1

      topowatch simulate --runs 4 --samples 5000 --rate 0 --json
    """
    plans = fleet(runs, failing=failing, seed=seed, samples=samples, probes=probes, ranks=ranks, group=group)
    plans = [dataclasses.replace(plan, run=prefix + plan.run) for plan in plans]
    terminal = console()
    columns = (
        TextColumn("sending"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("items"),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, console=terminal, transient=True, disable=as_json) as progress:
        items = (plan.samples // 2 if plan.kind == "stalled" else plan.samples + 1 for plan in plans)
        expected = ranks * sum(items)
        task = progress.add_task("", total=expected)
        try:
            totals = asyncio.run(
                send_fleet(
                    own_access(endpoint),
                    plans,
                    rate=rate or None,
                    on_progress=lambda count: progress.advance(task, count),
                )
            )
        except SendingError as error:
            raise CommandError(str(error), status=2 if isinstance(error, UnreachableError) else 1) from None
    summary = _summary(totals, time.monotonic() - began)
    summary["failing"] = {kind: sum(plan.kind == kind for plan in plans) for kind in FAILING}
    if as_json:
        print_json(summary)
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in summary["failing"].items() if count) or "none failing"
    terminal.print(
        f"{totals.finished} runs ({kinds}): {totals.stored:,} items stored in {summary['seconds']:.1f} s "
        f"({summary['items_per_second']:.0f}/s), {sum(totals.rejected.values())} rejected, "
        f"{totals.retries} batches sent again, ack p99 {1000 * summary['ack_seconds_p99']:.0f} ms",
        soft_wrap=True,
        markup=False,
    )


def _summary(totals: Totals, seconds: float) -> dict[str, Any]:
    acks = sorted(totals.ack_seconds)
    return {
        "runs": totals.finished,
        "stored": totals.stored,
        "duplicates": totals.duplicates,
        "rejected": dict(totals.rejected),
        "sent_again": totals.retries,
        "bytes": totals.bytes,
        "seconds": seconds,
        "items_per_second": totals.stored / seconds,
        "ack_seconds_p50": acks[len(acks) // 2] if acks else 0.0,
        "ack_seconds_p99": acks[min(len(acks) - 1, int(0.99 * len(acks)))] if acks else 0.0,
    }
