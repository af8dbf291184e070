"""Train what is missing of a sweep, forecast its runs from one another, keep the results and write the page of tables.

`make replicate` runs it on the sweep `full`, `make replicate-small` on `small`, whose page is only printed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.progress import MofNCompleteColumn, Progress

from bench.machine import machine
from replication.forecasts import page, plots
from replication.forecasts.claim import claim_of
from replication.forecasts.generate import folder_of, generate, kept
from replication.forecasts.holding_out import hold_out
from replication.forecasts.judging import Group, made_of, stopping, table_of
from replication.forecasts.keeping import keep
from replication.forecasts.reading import read
from replication.forecasts.shapes import shapes_of
from replication.forecasts.strangers import strangers
from replication.forecasts.sweep import SHIFTS, SWEEPS

if TYPE_CHECKING:
    from replication.forecasts.sweep import Sweep


def main() -> int:
    """Do all of it for the sweep that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", choices=sorted(SWEEPS))
    sweep = SWEEPS[parser.parse_args().sweep]
    generate(sweep)
    found = judge(sweep)
    whole = sweep.name == "full"
    target = page.RESULTS if whole else folder_of(sweep) / "forecasts.json"
    target.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    text = page.page(found)
    if whole:
        page.PAGE.write_text(text)
    print(text)
    return 0


def judge(sweep: Sweep) -> dict[str, Any]:
    """Score forecasts of all kinds on a sweep that was trained."""
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that judge
    runs, configurations = read(sweep), sweep.configurations()
    for each in configurations:
        if missing := [group for group in each.groups if each.run not in {run.run for run in runs.get(group, ())}]:
            raise RuntimeError(f"{each.run} is missing in the log's group {missing[0]}: train the sweep again")
    names = {cell.name: cell for cell in sweep.cells} | {cell.validated: cell for cell in sweep.cells}
    with (
        Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress,
        ProcessPoolExecutor(os.cpu_count()) as pool,
    ):
        task = progress.add_task("forecasting", total=len(names))
        jobs = {name: pool.submit(keep, sweep, name, hold_out, runs[name]) for name in names}
        groups: dict[str, Group] = {}
        for name, job in jobs.items():
            groups[name] = Group(name, names[name], runs[name], configurations, job.result())
            progress.advance(task)
        found_strangers = keep(sweep, "strangers", partial(strangers, pool, progress), sweep.cells, runs, SHIFTS)
    shapes = keep(sweep, "shapes", shapes_of, sweep)
    records = {(each.cell.name, each.run): kept(sweep, each) or {} for each in configurations}
    blind, validated = ([groups[getattr(cell, kind)] for cell in sweep.cells] for kind in ("name", "validated"))
    if sweep.name == "full":
        plots.draw(blind)
    return {
        "machine": machine(),
        "sweep": sweep.name,
        "runs": sum(len(group.runs) for group in blind),
        "steps": sweep.steps,
        "accuracy": table_of(blind, "accuracy"),
        "gap": table_of(blind, "gap"),
        "validated": table_of(validated, "accuracy"),
        "made": {"blind": made_of(blind), "validated": made_of(validated)},
        "stopping": stopping(blind, validated),
        "strangers": found_strangers,
        "claim": {
            group.name: claim_of(
                group, {run: each for (name, run), each in records.items() if name == group.name}, shapes
            )
            for group in blind
        },
    }


if __name__ == "__main__":
    sys.exit(main())
