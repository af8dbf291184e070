"""The results as a page of tables: `PYTHONPATH=tests python -m replication.tables` writes and prints it anew."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.tabular import table
from replication.lessons import DETOURS, SPOILS

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[2] / "docs" / "replication-classes.md"
PARTS = ("sweeps", "branching", "routes")

_ABSTAINED = ("abstained", "healthy alone")
_HEAD = """\
# Path classes against the truth of real runs

Written by `make evaluate-classes`, which trains the runs, judges them and lays out this page. Machine: {machine}.
"""
_SWEEPS = """\
## Spoiled runs among healthy siblings

Groups of 24 healthy seeds, alone or with 4 spoiled runs of different kinds; digits (MLP, CNN) and MNIST-5k (CNN). A run
is an outlier if it is not in the class of at least 60 % of its group; nobody is where the answer is withheld. Baselines
have thresholds set on the tune sweeps, to the false positives that path classes (sampled as a client does) have there,
or to 1 in 24 where they have none; strict ones let none of the healthy runs of the tune sweeps pass. AUC is of the
scores: for path classes, the scale of merging with the majority. Withholding the answer is right for healthy runs
alone.
"""
_BRANCHING = """\
## Children of one run

Children share all steps up to the turn and see the data in another order after it; strangers start from other weights.
Barrier: rise of the training loss on the straight line between two ends, in nats, mean over the pairs that part at this
turn. In brackets: mean merge scale, share of pairs in one class.
"""
_ROUTES = """\
## Only the route differs

18 straight runs and 6 with a detour. Ends: mean share of probes that two runs predict differently, and mean distance of
their last points, between two straight runs → between a detoured and a straight one. Alike: share of pairs of a
detoured and a straight run that differ in no more predictions than 95 % of the pairs of straight ones do.
"""


def page(results: dict[str, Any]) -> str:
    """Return the page for the results of all parts."""
    return "\n".join(
        [
            _HEAD.format(machine=results["sweeps"]["machine"]),
            *_sweeps(results["sweeps"]),
            *_branching(results["branching"]["families"]),
            *_routes(results["routes"]["forks"]),
        ]
    )


def _sweeps(found: dict[str, Any]) -> list[str]:
    lines = [_SWEEPS]
    for half in ("report", "tune"):
        lines += [f"### {half.capitalize()} sweeps", ""]
        head = [
            "method",
            "false positives",
            "precision",
            "recall",
            "AUC",
            "strict: false",
            "recall",
            *_ABSTAINED,
            *SPOILS,
        ]
        rows = []
        for method, line in found[half].items():
            kinds = ["{} of {}".format(*line["by_kind"][kind]) for kind in SPOILS]
            both = [f"{line['abstained'][side]} of {line['groups'][side]}" for side in ("spoiled", "healthy")]
            abstained = both if method.startswith("path classes") else ["–", "–"]
            false = f"{line['false_positives']} of {line['healthy']}"
            ratios = [_number(line[name]) for name in ("precision", "recall", "auc")]
            strict = line.get("strict", {"false_positives": line["false_positives"], "recall": line["recall"]})
            cautious = [str(strict["false_positives"]), _number(strict["recall"])]
            rows.append([method, false, *ratios, *cautious, *abstained, *kinds])
        lines += [*table(head, rows), ""]
    lines += [*(f"- {kind}: {meaning}" for kind, meaning in SPOILS.items()), ""]
    return lines


def _branching(families: list[dict[str, Any]]) -> list[str]:
    lines = [_BRANCHING]
    names = ["strangers" if line["turn"] is None else f"turn {line['turn']:.0%}" for line in families[0]["turns"]]
    rows = [
        [
            family["family"],
            *("{barrier:.3f} ({merge_scale:.2f}, {same_class:.2f})".format(**line) for line in family["turns"]),
        ]
        for family in families
    ]
    lines += [*table(["parent", *names], rows), ""]
    lines += [
        "Within a class against between classes, and rank correlation (Spearman) of three rulers with the barrier:",
        "",
    ]
    rulers = list(families[0]["rank_correlation_all"])
    head = ["parent", "runs", "classes", "barrier within", "between", *rulers]
    rows = []
    for family in families:
        for runs in ("children", "all"):
            classes = "abstained" if family["abstained"] else str(family["classes"])
            halves = [_number(family[runs][side], 3) for side in ("within", "between")]
            correlations = [_number(family[f"rank_correlation_{runs}"][ruler]) for ruler in rulers]
            rows.append([family["family"], runs, classes, *halves, *correlations])
    return [*lines, *table(head, rows), ""]


def _routes(forks: list[dict[str, Any]]) -> list[str]:
    lines = [_ROUTES]
    head = ["runs", "detour", "test accuracy", "predictions differ", "alike", "distance", "classes", "best p"]
    rows = []
    for fork in forks:
        ends = fork["ends"]
        rows.append(
            [
                fork["fork"],
                fork["detour"],
                _change(fork["accuracy"]["straight"], fork["accuracy"]["detour"]),
                _change(ends["disagreement_straight"], ends["disagreement_detour"]),
                f"{ends['alike']:.0%}",
                _change(ends["distance_straight"], ends["distance_detour"]),
                "abstained" if fork["methods"]["path classes"]["abstained"]["spoiled"] else str(fork["classes"]),
                f"{fork['best_p']:.0e}",
            ]
        )
    lines += [*table(head, rows), "", "Detoured runs found and straight runs flagged, with AUC in brackets:", ""]
    head = ["method", *(f"{fork['fork']}, {fork['detour']}" for fork in forks)]
    rows = []
    for method in forks[0]["methods"]:
        cells = [fork["methods"][method] for fork in forks]
        rows.append([method, *("{found} and {false_positives} ({auc:.2f})".format(**cell) for cell in cells)])
    explained = [f"- {kind}: {meaning}" for kind, meaning in DETOURS.items()]
    return [*lines, *table(head, rows), "", *explained, ""]


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _change(before: float, after: float) -> str:
    return f"{before:.3f} → {after:.3f}"


def main() -> int:
    """Write and print the page from the kept results."""
    text = page({part: json.loads((RESULTS / f"{part}.json").read_text()) for part in PARTS})
    PAGE.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
