"""The calibration as a page of tables: `PYTHONPATH=tests python -m replication.calibration_page` writes it anew."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.tabular import table

RESULTS = Path(__file__).parent / "results" / "calibration.json"
PAGE = Path(__file__).parents[2] / "docs" / "calibration-classes.md"

_HEAD = """\
# Path classes on groups of known truth

Written by `make calibrate` from simulated groups (`tests/planted_paths.py`). Machine: {machine}.
"""
_NULL = """\
## False splits

Groups without a hole: paths from one point that fan out, stay in a bundle, slow down towards scattered ends, or wander;
in one or two lateral dimensions, rotated into ten, with noise. A false split is more than one class. By the law of
noise alone: if every loop that beats it counted, without the comparison with scatter.
"""
_LEVELS = """\
## p-values

Share of the groups without a hole whose smallest p-value is below a level, by the law of noise alone → as shipped. With
exact p-values a share would equal its level. They are larger: the law was found for independent points, and points
along paths are not, so p-values rank evidence and are no exact probabilities. As shipped, loops that beat the law at
1e-4 are compared with scatter, whose chance is an exponential tail fitted to 5 to 20 Gaussian groups and has to be
below 1e-3.
"""
_POWER = """\
## Holes that are found

Paths on either side of a round hole, a quarter of them once more around, 30 groups a line. Width: paths keep
|N(0, 1)| × width off its rim. Size: radius of the hole over the landmarks' cover radius. Agreement: every pair of paths
is in one class if and only if it is in truth. Spurious: some pair of one true class is parted.
"""
_NOISE = """\
## Holes that drown

24 paths around a hole of radius 0.5. Drowned: noise after the reduction (σ√3) over the hole's radius; beyond a half the
answer has to be withheld.
"""


def page(results: dict[str, Any]) -> str:
    """Return the page."""
    nulls = results["null"]
    layouts = list(nulls[0]["by_layout"])
    sizes = [line["runs"] for line in nulls]
    rates = ("found", "agree", "spurious")
    return "\n".join(
        [
            _HEAD.format(machine=results["machine"]),
            _NULL,
            *table(
                ["runs", "groups", "by the law alone", "false splits", "share", *layouts],
                [
                    [
                        *(str(line[name]) for name in ("runs", "groups", "law_splits", "splits")),
                        f"{line['splits'] / line['groups']:.1%}",
                        *(f"{line['by_layout'][layout]} of {line['of_each']}" for layout in layouts),
                    ]
                    for line in nulls
                ],
            ),
            "",
            _LEVELS,
            *table(
                ["level", *(f"{runs} runs" for runs in sizes)],
                [
                    [
                        f"{line['level']:g}",
                        *(f"{line[f'law {runs}']:.3f} → {line[f'shipped {runs}']:.3f}" for runs in sizes),
                    ]
                    for line in results["levels"]
                ],
            ),
            "",
            _POWER,
            *table(
                ["runs", "width", "radius", "size", "found", "agreement", "spurious"],
                [
                    [
                        str(line["runs"]),
                        f"{line['width']:g}",
                        f"{line['radius']:g}",
                        f"{line['size']:.1f}",
                        *(f"{line[name]:.2f}" for name in rates),
                    ]
                    for line in results["power"]
                ],
            ),
            "",
            _NOISE,
            *table(
                ["noise", "drowned", "found", "agreement", "spurious"],
                [
                    [f"{line['noise']:g}", f"{line['drowned']:.2f}", *(f"{line[name]:.2f}" for name in rates)]
                    for line in results["noise"]
                ],
            ),
            "",
        ]
    )


def main() -> int:
    """Write the page and print it."""
    text = page(json.loads(RESULTS.read_text()))
    PAGE.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
