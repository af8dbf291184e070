"""The results as a page of tables: `PYTHONPATH=tests python -m replication.forecasts.page` writes it anew."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.tabular import table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RESULTS = Path(__file__).parents[1] / "results" / "forecasts.json"
PAGE = Path(__file__).parents[3] / "docs" / "replication-forecasts.md"

SHARES = {0.25: "a quarter", 0.5: "half", 1.0: "the end"}
BARS = {"accuracy": {0.25: 0.82, 0.5: 0.90, 1.0: 0.95}, "gap": {1.0: 0.82}}
CURVES = ("last value", "power law")
_HEAD = """\
# Forecasts, replicated

Written by `{command}` from {runs} trainings of {steps} steps, each watched by the real client and a real daemon
(`--engine inline`). Machine: {machine}.

A sweep is {cells} groups: architectures (CNN, transformer, RNN) on data sets (5,000 MNIST images, Fashion-MNIST, the
Bible by characters), runs of different optimiser (SGD, Adam, AdamW), learning rate, weight decay, batch size, width
and label noise (4 of 7 runs have none), all drawn from a seed and frozen in `tests/replication/forecasts/sweep.py`
before any figure was taken; the forecaster was made on another sweep (`trial`). Rates fall along a cosine. Training,
probes (256, or 8 windows of text), validation and test data share no example. Every run is held out: each fifth of a
group is forecast from the other four, by the code that the daemon runs. No two runs have the same configuration.

R² of several groups together is within them: what the groups' means explain does not count. It has a 95 % interval of
the bootstrap over runs. Errors are in points of accuracy. *Sound* runs are those without label noise that end more
than five points above always naming the commonest class; the others make R² look better, as they are easy to tell.
"""
_BLIND = """\
## (a) Without any held-out label

Probes have no labels, and nothing but the training loss is logged. Baselines do not abstain; all are scored on the
runs that the forecaster told something of.
"""
_VALIDATED = """\
## (b) With a validation metric

The same trainings, with labelled probes and `val_accuracy` logged every 16 steps. *Power law* is a + b·t^−c fitted to
it.
"""
_GAP = """\
## The gap

Training accuracy (on the labels as they were given, wrong ones included) less test accuracy, as in (a). Most of it is
the label noise: sound runs of so few steps have hardly any gap, and what is forecast of it is worth nothing there.
"""
_MADE = """\
## As they were made

What the daemon told while the runs went on, scored when they had ended: the newest forecast of each run up to a share
of its steps, learned from the siblings that had ended by then. They lie in the log as they were told, by the
forecaster as it was when the sweep ran: a little older than that of the other tables.
"""
_STOPPING = """\
## Stopping the worse half

Had the worse half of each group been stopped then: share of all steps saved, how much worse the best of the others
ends than the best of all (mean and worst over the groups, in points), and in how many groups the best was kept. All
forecasts are of runs that were held out.
"""
_STRANGERS = """\
## Out of distribution

Forecasters as in (a) on runs that are not of their kind; R² is about the mean of the runs that were asked about, width
the median of the 90 % intervals. Of a run whose probes are not those of its siblings the daemon forecasts nothing:
what it would have said is told beside it. Another architecture on the same probes is hardly noticed, its intervals are
wider and still too narrow: runs of one group are to be of one kind. *A new group* is forecast from ended runs of the
other groups, none of its own, as the daemon does where fewer than 12 have ended: intervals there come from leaving
whole groups out.
"""
_CLAIM = """\
## What the paper claims

That topology tells the generalisation gap. For each measure at the end of the runs, medians over the groups with
their range: Kendall's τ with the gap; the granulated τ (within runs that share a setting, averaged over the
settings); the partial rank correlation given learning rate, batch size, path length, weight norm and final loss; R²
of the gap out of sample (one left out) by the measure alone, by these five alone, and by both. Paths have {points}
points, weights at every eighth step: few for a dimension. Slices of the training loss are 13 × 13 points through the
final weights; most have a single basin, so that their persistence is zero.
"""


def page(found: Mapping[str, Any]) -> str:
    """Return the page."""
    groups = list(found["accuracy"][0]["groups"])
    command = "make replicate" if found["sweep"] == "full" else f"make replicate-{found['sweep']}"
    facts = {"command": command, "runs": found["runs"], "steps": found["steps"], "machine": found["machine"]}
    parts = [_HEAD.format(cells=len(groups), **facts), _BLIND, *_levels(found["accuracy"], "accuracy"), ""]
    if found["sweep"] == "full":
        parts += ["![Forecasts against results](replication-forecasts.svg)", ""]
    parts += ["By group:", "", *_by_group(found["accuracy"], groups), ""]
    parts += [_VALIDATED, *_levels(found["validated"], "accuracy", bars=False), ""]
    parts += ["By group:", "", *_by_group(found["validated"], groups, suffix="-validated"), ""]
    parts += [_GAP, *_levels(found["gap"], "gap"), "", "By group:", "", *_by_group(found["gap"], groups), ""]
    parts += [_MADE, *_made(found["made"]), ""]
    parts += [_STOPPING, *_stopping(found["stopping"]), ""]
    parts += [_STRANGERS, *_strangers(found["accuracy"], found["strangers"]), ""]
    parts += [_CLAIM.format(points=found["steps"] // 8), *_claim(found["claim"])]
    return "\n".join(parts).rstrip() + "\n"


def _levels(levels: Sequence[Mapping[str, Any]], target: str, *, bars: bool = True) -> list[str]:
    """One line a way to forecast at each share of the steps: of all runs, and of the sound ones."""
    lines: list[str] = []
    for level in levels:
        whole, sound, bar = level["all"], level["sound"], BARS[target].get(level["level"]) if bars else None
        told = f"**At {SHARES[level['level']]} of the steps**" if level["level"] < 1 else "**At the end**"
        told += f": {whole['runs']} runs, abstained on {_percent(whole['abstained'])}, coverage of 90 % intervals "
        told += f"{_percent(whole['coverage'])}; {sound['runs']} sound runs, {_percent(sound['abstained'])} and "
        told += f"{_percent(sound['coverage'])}." + ("" if bar is None else f" Bar: R² ≥ {bar}.")
        head = ["", "R²", "error", "τ", "R² of sound runs", "error", "τ"]
        rows = [
            [name, _r2(way), _points(way["error"]), _number(way["tau"]), *_other(sound["ways"].get(name))]
            for name, way in whole["ways"].items()
        ]
        lines += [told, "", *table(head, rows), ""]
    return lines[:-1]


def _by_group(levels: Sequence[Mapping[str, Any]], groups: Sequence[str], suffix: str = "") -> list[str]:
    head = [
        "group",
        *(f"R² at {SHARES[level['level']]}" for level in levels),
        "best baseline",
        "error",
        "τ",
        "coverage",
    ]
    head += ["abstained"]
    rows = []
    for name in groups:
        each = [level["groups"][name + suffix] for level in levels]
        quarter = each[0]
        baselines = [
            max((way["r2"] for of, way in one["ways"].items() if of not in _OURS), default=None) for one in each
        ]
        rows.append(
            [
                name,
                *(_number(one["ways"]["forecast"]["r2"]) for one in each),
                " ".join(_number(one) for one in baselines),
                " ".join(_points(one["ways"]["forecast"]["error"]) for one in each),
                _number(quarter["ways"]["forecast"]["tau"]),
                " ".join(_percent(one["coverage"]) for one in each),
                " ".join(_percent(one["abstained"]) for one in each),
            ]
        )
    return [*table(head, rows), "", "τ at a quarter; the other columns at a quarter, half and the end."]


_OURS = ("forecast", "without topology", "topology alone")


def _made(made: Mapping[str, Any]) -> list[str]:
    head = ["", "share of the steps", "runs", "R², median of the groups", "error", "coverage"]
    rows = []
    for kind, levels in made.items():
        for level in levels:
            told = [one["r2"] for one in level["groups"].values() if one["r2"] is not None and one["runs"] >= 8]
            median = _number(float(np.median(told))) if told else "–"
            name = "nothing validated" if kind == "blind" else "with validation"
            share = SHARES[level["level"]]
            rows.append([name, share, str(level["runs"]), median, _points(level["error"]), _percent(level["coverage"])])
    return table(head, rows)


def _stopping(levels: Sequence[Mapping[str, Any]]) -> list[str]:
    head = ["by", "at", "saved", "regret", "worst", "best kept"]
    rows = [
        [
            name,
            SHARES[level["level"]],
            _percent(way["saved"]),
            _points(way["regret"], 2),
            _points(way["worst"], 2),
            _percent(way["kept_best"]),
        ]
        for level in levels
        for name, way in level["ways"].items()
    ]
    return table(head, rows)


def _strangers(own: Sequence[Mapping[str, Any]], kinds: Sequence[Mapping[str, Any]]) -> list[str]:
    levels = [{"level": each["level"], **each["all"], **each["all"]["ways"]["forecast"]} for each in own]
    kinds = [{"kind": "its own kind, as in (a)", "levels": levels}, *kinds]
    head = ["asked about", "at", "abstained", "coverage", "width", "error", "R²", "τ"]
    rows = [
        [
            each["kind"], SHARES[level["level"]], _percent(level["abstained"]), _percent(level["coverage"]),
            _points(level["width"]), _points(level["error"]), _number(level["r2"]), _number(level["tau"]),
        ]
        for each in kinds
        for level in each["levels"]
    ]  # fmt: skip
    return table(head, rows)


def _claim(claim: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    columns = ("tau", "granulated", "partial", "r2", "r2_given", "r2_both")
    head = ["measure", "τ", "granulated τ", "partial", "R² alone", "R² of the five", "R² of both"]
    measures = [each["measure"] for each in next(iter(claim.values()))]
    rows = []
    for number, name in enumerate(measures):
        cells = []
        for column in columns:
            values = [each[number][column] for each in claim.values() if each[number].get(column) is not None]
            cells.append(_range(values))
        rows.append([name, *cells])
    lines = table(head, rows)
    head = ["group", "runs", *(f"{name}: τ, partial" for name in measures[:3])]
    rows = [
        [group, str(max(each["runs"] for each in measured)), *(_pair(each) for each in measured[:3])]
        for group, measured in claim.items()
    ]
    return [*lines, "", "By group, of the first three:", "", *table(head, rows)]


def _pair(each: Mapping[str, Any]) -> str:
    return f"{_number(each.get('tau'))}, {_number(each.get('partial'))}"


def _range(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return f"{_number(float(np.median(values)))} ({_number(min(values))} to {_number(max(values))})"


def _r2(way: Mapping[str, Any]) -> str:
    interval = way.get("r2_interval")
    return _number(way["r2"], 3) + ("" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})")


def _other(way: Mapping[str, Any] | None) -> list[str]:
    return ["–", "–", "–"] if way is None else [_r2(way), _points(way["error"]), _number(way["tau"])]


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-0.00", "0.00")


def _points(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def main() -> int:
    """Write and print the page from the kept results."""
    text = page(json.loads(RESULTS.read_text()))
    PAGE.write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
