"""Fix on half of the seeds what the detectors take for an alarm and what the score says: prints what is to be written.

`make fit-minima` runs it. Nothing of the other half is looked at.
"""

from __future__ import annotations

import sys

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from replication.minima.judging import Judged, judge
from replication.minima.suite import generate, is_fitted_on, jobs
from topowatch_monitor.detect import DETECTORS
from topowatch_monitor.detect.instability import MOST, WEIGHTS

_QUIET = 0.05  # evidence that is none
_BINS = 10
_MARGIN = 1.25  # of the largest level of a healthy step, in nats beyond what was tested


def main() -> int:
    """Print the largest healthy level of each detector that measures, and the numbers of the score."""
    wanted = [job for job in jobs() if is_fitted_on(job)]
    generate(wanted)
    runs = judge(wanted)
    console = Console()
    console.print(_levels(runs))
    weights, knots, values = fit_score(runs)
    console.print("WEIGHTS =", weights, "\nEVIDENCE =", tuple(knots), "\nPROBABILITIES =", tuple(values))
    return 0


def fit_score(runs: list[Judged]) -> tuple[dict[str, float], list[float], list[float]]:
    """Return the weights of the levels, and evidence and probability at the knots of the isotonic regression."""
    moments, labels = moments_of(runs)
    model = LogisticRegression(C=10.0, max_iter=1000).fit(moments, labels)
    # A level that is higher may not count for less: those that would are of no use beside the others.
    weights = np.maximum(model.coef_[0], 0.0)
    sums = moments @ weights
    named = {name: round(float(weight), 2) for name, weight in zip(WEIGHTS, weights, strict=True)}
    return named, *_knots(sums, labels)


def _knots(sums: np.ndarray, labels: np.ndarray) -> tuple[list[float], list[float]]:
    """Return mean evidence and, made monotone, the share that departed, in bins of as many moments each."""
    quiet = sums < _QUIET
    order = np.argsort(sums[~quiet], kind="stable")
    bins = [np.flatnonzero(quiet), *np.array_split(np.flatnonzero(~quiet)[order], _BINS)]
    centres, shares, counts = zip(*((sums[each].mean(), labels[each].mean(), len(each)) for each in bins), strict=True)
    monotone = IsotonicRegression().fit_transform(centres, shares, sample_weight=counts)
    return np.round(centres, 2).tolist(), np.round(monotone, 3).tolist()


def moments_of(runs: list[Judged]) -> tuple[np.ndarray, np.ndarray]:
    """Return levels (moments × detectors) of moments without a departure so far, and whether one came in time."""
    rows, labels = [], []
    for run in runs:
        before, soon = run.moments()
        rows.append(np.minimum(np.stack([run.levels[name] for name in WEIGHTS], axis=1)[before], MOST))
        labels.append(soon)
    return np.concatenate(rows), np.concatenate(labels)


def _levels(runs: list[Judged]) -> Table:
    table = Table(title="healthy steps of the fitted half: largest level, in alarms")
    for title in ("detector", "largest", "run", "step", f"alarm at {_MARGIN} times it, in the present one's logarithm"):
        table.add_column(title)
    for detector in DETECTORS:
        if detector.measure is None:
            continue
        found = []
        for run in runs:
            healthy = run.steps < (len(run.losses) if run.job.onset is None else run.job.onset)
            if healthy.any():
                place = int(np.argmax(run.levels[detector.name][healthy]))
                name = f"{run.job.task} {run.job.kind} {run.job.seed}"
                found.append((float(run.levels[detector.name][place]), name, int(run.steps[place])))
        level, name, step = max(found)
        table.add_row(detector.name, f"{level:.2f}", name, str(step), f"{_MARGIN * level:.2f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
