"""Train what is missing, judge path classes and baselines on it, keep the results and write the page of tables.

`make evaluate-classes` runs it. Trained runs and barriers are kept, so that it goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from rich.progress import MofNCompleteColumn, Progress

from bench.machine import machine
from replication import tables
from replication.branching import FAMILIES
from replication.generate import plans
from replication.judge_branching import judge_branching
from replication.judge_routes import judge_routes
from replication.judge_sweeps import judge_sweeps
from replication.lessons import DETOURS
from replication.routes import FORKS
from replication.runs import generate
from replication.sweeps import SWEEPS


def main() -> int:
    """Do the parts that are named, or all; routes use the thresholds of the sweeps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=tables.PARTS, help=", ".join(tables.PARTS))
    options = parser.parse_args()
    generate([plan for part in options.parts for plan in plans(part)])
    counts = {
        "sweeps": sum(len(sweep.groups()) for sweep in SWEEPS),
        "branching": len(FAMILIES),
        "routes": len(FORKS) * (len(DETOURS) - 1),
    }
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
        for part in options.parts:
            task = progress.add_task(f"judging {part}", total=counts[part])

            def advance(name: str, task: Any = task, part: str = part) -> None:
                progress.update(task, description=f"judging {part}: {name}", advance=1)

            if part == "sweeps":
                found = judge_sweeps(advance)
            elif part == "branching":
                found = {"families": judge_branching(advance)}
            else:
                thresholds = json.loads((tables.RESULTS / "sweeps.json").read_text())["thresholds"]
                found = {"forks": judge_routes(thresholds, advance)}
            _keep(part, found)
    return tables.main()


def _keep(part: str, found: dict[str, Any]) -> None:
    tables.RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"machine": machine(), **found}, indent=1, ensure_ascii=False)
    (tables.RESULTS / f"{part}.json").write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
