"""Judge unstable minima on the half of the seeds that no threshold was fixed on, and write the page of tables.

`make evaluate-minima` runs it. Trained runs are kept, so that it goes on where it was interrupted.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.machine import machine
from replication.minima import page
from replication.minima.baselines import BASELINES, GRID, Baseline, flags_of
from replication.minima.failures import KINDS
from replication.minima.judging import CRITICAL, TOPOLOGICAL, Judged, judge, reliability
from replication.minima.suite import generate, is_fitted_on, jobs, read
from replication.minima.tasks import TASKS
from topowatch_monitor.detect.scoring import RunFlags, Score, rate, score, share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from replication.minima.training import Job

    Flags = Callable[[Job], list[tuple[int, int | None]]]
    Figures = Callable[[Flags, Sequence[Job]], dict[str, Any]]

PROMPT = 5  # steps from onset to flag that an abrupt failure may take


def main() -> int:
    """Train what is missing, judge all runs, keep the figures and print the page."""
    generate()
    every = jobs()
    judged = {run.job: run for run in judge(every)}
    fitted = [job for job in every if is_fitted_on(job)]
    others = [job for job in every if not is_fitted_on(job)]
    departures = {job: run.departure for job, run in judged.items()}
    lengths = {job: len(run.losses) for job, run in judged.items()}

    def figures_of(flags: Flags, among: Sequence[Job] = others) -> dict[str, Any]:
        return _figures([_marked(job, flags(job), departures[job], lengths[job]) for job in among], list(among))

    ours = {
        "topowatch": lambda job: flags_between(judged[job], CRITICAL),
        "without topological detectors": lambda job: flags_between(judged[job], set(CRITICAL) - TOPOLOGICAL),
        "topological detectors alone": lambda job: flags_between(judged[job], TOPOLOGICAL),
    }
    tools = {name: figures_of(flags) for name, flags in ours.items()}
    for name, baseline in BASELINES.items():
        print(f"judging {name}", file=sys.stderr)
        tools |= _of_baseline(name, baseline, (fitted, others), ours["topowatch"], figures_of)
    kinds = {
        kind: figures_of(ours["topowatch"], [job for job in others if job.kind == kind]) for kind in (*KINDS, "healthy")
    }
    detectors = {
        name: figures_of(lambda job, name=name: flags_between(judged[job], {name}))
        for name in sorted({*CRITICAL, *TOPOLOGICAL})
    }
    found = {
        "machine": machine(),
        "runs": {"fitted": len(fitted), "held out": len(others)},
        "tools": tools,
        "kinds": kinds,
        "detectors": detectors,
        "reliability": reliability([judged[job] for job in others]),
    }
    page.RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return page.main()


def flags_between(run: Judged, names: Iterable[str]) -> list[tuple[int, int | None]]:
    """Return the (on, off) steps at which any of the detectors was on, as the daemon knew it."""
    on = np.any([run.flags[name] for name in names], axis=0) if names else np.zeros(len(run.steps), bool)
    return [
        (int(run.steps[start]), None if stop is None else int(run.steps[stop]))
        for start, stop in flags_of(on.astype(float), 0.5)
    ]


def _of_baseline(
    name: str, baseline: Baseline, halves: tuple[list[Job], list[Job]], ours: Flags, figures_of: Figures
) -> dict[str, dict[str, Any]]:
    """Return the baseline's figures with a threshold for each network that keeps to our false alarms, and with its own.

    That is an advantage: topowatch has the same thresholds for all.
    """
    scores = {job: baseline.scores(read(job)) for half in halves for job in half}
    thresholds = {}
    for task in TASKS:
        fitted = [job for job in halves[0] if job.task == task]
        allowed = figures_of(ours, fitted)["false_alarms"]
        thresholds[task] = next(
            each
            for each in GRID
            if figures_of(lambda job, each=each: flags_of(scores[job], each), fitted)["false_alarms"] <= allowed
        )
    shown = ", ".join(f"{each:.3g}" for each in thresholds.values())
    found = {f"{name} (above {shown})": figures_of(lambda job: flags_of(scores[job], thresholds[job.task]), halves[1])}
    if (usual := baseline.usual) is not None:
        found[f"{name} (above {usual:.3g} as usual)"] = figures_of(lambda job: flags_of(scores[job], usual), halves[1])
    return found


def _marked(job: Job, flags: list[tuple[int, int | None]], left: int | None, length: int) -> RunFlags:
    onset = job.onset
    departed = left if onset is not None and left is not None and left >= onset else None
    return RunFlags(start=0, stop=length, flags=flags, onset=onset, departure=departed)


def _figures(runs: list[RunFlags], among: list[Job]) -> dict[str, Any]:
    """Return recall, leads and false alarms; of slow failures those alone count that end in a departure."""
    pairs = list(zip(runs, among, strict=True))
    slow = [run for run, job in pairs if _onset(job) == "slow" and run.departure is not None]
    abrupt = [run for run, job in pairs if _onset(job) == "abrupt"]
    of_slow, of_abrupt, of_all = score(slow), score(abrupt), score(runs)
    return {
        "slow": len(slow),
        "recall": share(sum(lead > 0 for lead in of_slow.leads), len(slow)),
        "lead": of_slow.median_lead,
        "worst_lead": _worst(of_slow, len(slow)),
        "abrupt": len(abrupt),
        "prompt": share(sum(delay <= PROMPT for delay in of_abrupt.delays), len(abrupt)),
        "false_alarms": of_all.false_alarms,
        "healthy_steps": of_all.healthy_steps,
        "rate": rate(of_all.false_alarms, of_all.healthy_steps),
        "precision": of_all.precision,
        "undeparted": sum(_onset(job) == "slow" and run.departure is None for run, job in pairs),
    }


def _worst(found: Score, events: int) -> int | None:
    """Return the smallest lead; None where a failure was never flagged."""
    return found.worst_lead if len(found.leads) == events else None


def _onset(job: Job) -> str | None:
    return KINDS[job.kind].onset if job.kind in KINDS else None


if __name__ == "__main__":
    sys.exit(main())
