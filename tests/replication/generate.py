"""Train all runs that are not kept yet: `PYTHONPATH=tests python -m replication.generate`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from replication.branching import FAMILIES
from replication.routes import DETOURED, FORKS, STRAIGHT
from replication.runs import generate
from replication.sweeps import SWEEPS

if TYPE_CHECKING:
    from replication.runs import Plan

PARTS = ("sweeps", "branching", "routes")


def plans(part: str) -> list[Plan]:
    """Return all runs of one part of the evaluation."""
    if part == "sweeps":
        return [plan for sweep in SWEEPS for plan in sweep.plans()]
    if part == "branching":
        return [plan for family in FAMILIES for plan in family.plans()]
    counts = {"straight": STRAIGHT, "permuted": DETOURED, "subset": DETOURED}
    return [plan for fork in FORKS for kind, count in counts.items() for plan in fork.plans(kind, count)]


def main() -> int:
    """Train the parts that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=PARTS, help=", ".join(PARTS))
    parser.add_argument("--data", help="only this data set")
    options = parser.parse_args()
    wanted = [plan for part in options.parts for plan in plans(part)]
    generate([plan for plan in wanted if options.data in (None, plan.data)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
