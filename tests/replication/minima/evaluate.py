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
from replication.minima.failures import HEALTHY, KINDS
from replication.minima.judging import CRITICAL, TOPOLOGICAL, Judged, judge, reliability
from replication.minima.suite import dense_jobs, generate, is_fitted_on, jobs, read
from replication.minima.tasks import TASKS
from topowatch_monitor.detect.scoring import RunFlags, Score, rate, score, share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from replication.minima.training import Job

    Flags = Callable[[Job], list[tuple[int, int | None]]]
    Figures = Callable[[Flags, Sequence[Job]], dict[str, Any]]

PROMPT = 5  # steps from onset to flag that an abrupt failure may take
ALERT = 0.75  # the score from which on somebody is told (deploy/prometheus/topowatch.rules.yml)
RATES = ("ramp",)  # kinds whose cause is a learning rate that rises


def main() -> int:
    """Train what is missing, judge all runs, keep the figures and print the page."""
    every, dense = jobs(), dense_jobs()
    generate([*every, *dense])
    judged = {run.job: run for run in judge([*every, *dense])}
    fitted = [job for job in every if is_fitted_on(job)]
    others = [job for job in every if not is_fitted_on(job)]

    def figures_of(flags: Flags, among: Sequence[Job] = others) -> dict[str, Any]:
        return _figures([judged[job] for job in among], [flags(job) for job in among])

    def by(names: Iterable[str]) -> Flags:
        return lambda job: flags_between(judged[job], names)

    ours = by(CRITICAL)
    tools = {"topowatch": figures_of(ours), f"its score, from {ALERT} on": figures_of(lambda job: _alerts(judged[job]))}
    for name, baseline in BASELINES.items():
        print(f"judging {name}", file=sys.stderr)
        tools |= _of_baseline(name, baseline, (fitted, others), ours, figures_of)
    slow = [job for job in others if _onset(job) == "slow"]
    found = {
        "machine": machine(),
        "runs": {"fitted": len(fitted), "held out": len(others), "dense": len(dense)},
        "tools": tools,
        "kinds": {kind: figures_of(ours, [job for job in others if job.kind == kind]) for kind in (*KINDS, *HEALTHY)},
        "networks": {
            f"{kind}, {task}": figures_of(ours, [job for job in slow if (job.kind, job.task) == (kind, task)])
            for kind, each in KINDS.items()
            if each.onset == "slow"
            for task in each.tasks
        },
        "causes": {
            "a rate that rises": figures_of(ours, [job for job in slow if job.kind in RATES]),
            "all else": figures_of(ours, [job for job in slow if job.kind not in RATES]),
            "all else, without untested_rate": figures_of(
                by(set(CRITICAL) - {"untested_rate"}), [job for job in slow if job.kind not in RATES]
            ),
        },
        "detectors": {name: figures_of(by({name})) for name in sorted({*CRITICAL, *TOPOLOGICAL})},
        "paces": {
            steps: figures_of(lambda job, wait=wait: flags_between(judged[job].delayed(wait), CRITICAL))
            for wait, steps in ((1, 4), (2, 8), (4, 16))
        },
        "ablation": {
            "all critical ones": figures_of(ours, dense),
            "with orbiting": figures_of(by({*CRITICAL, *TOPOLOGICAL}), dense),
            "orbiting alone": figures_of(by(TOPOLOGICAL), dense),
        },
        "loops": float(np.median([judged[job].levels["orbiting"].max() for job in dense])),
        "reliability": reliability([judged[job] for job in others]),
    }
    page.RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return page.main()


def _alerts(run: Judged) -> list[tuple[int, int | None]]:
    return _spans(run, run.scores >= ALERT)


def flags_between(run: Judged, names: Iterable[str]) -> list[tuple[int, int | None]]:
    """Return the (on, off) steps at which any of the detectors was on, as the daemon knew it."""
    return _spans(run, np.any([run.flags[name] for name in names], axis=0))


def _spans(run: Judged, on: np.ndarray) -> list[tuple[int, int | None]]:
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
    if baseline.usual is not None:
        usual = {job: baseline.usual(read(job)) for job in halves[1]}
        found[f"{name} (as usual)"] = figures_of(lambda job: flags_of(usual[job], 0.0), halves[1])
    return found


def _figures(runs: Sequence[Judged], flags: Sequence[list[tuple[int, int | None]]]) -> dict[str, Any]:
    """Return recall, leads and false alarms; of slow failures those alone count that end in a departure."""
    marked = [_marked(run, each, run.departure) for run, each in zip(runs, flags, strict=True)]
    slow = [each for run, each in zip(runs, marked, strict=True) if _slow_and_lost(run)]
    abrupt = [each for run, each in zip(runs, marked, strict=True) if _onset(run.job) == "abrupt"]
    lost = [(run, each) for run, each in zip(runs, flags, strict=True) if _slow_and_lost(run)]
    seen = [_marked(run, each, run.seen) for run, each in lost if run.seen is not None]
    healthy = [score([each]).false_alarms for run, each in zip(runs, marked, strict=True) if run.job.onset is None]
    of_slow, of_seen, of_abrupt, of_all = score(slow), score(seen), score(abrupt), score(marked)
    return {
        "slow": len(slow),
        "recall": share(sum(lead > 0 for lead in of_slow.leads), len(slow)),
        "lead": of_slow.median_lead,
        "worst_lead": _worst(of_slow, len(slow)),
        "seen": len(seen),
        "seen_recall": share(sum(lead > 0 for lead in of_seen.leads), len(seen)),
        "seen_lead": of_seen.median_lead,
        "seen_worst_lead": _worst(of_seen, len(seen)),
        "abrupt": len(abrupt),
        "prompt": share(sum(delay <= PROMPT for delay in of_abrupt.delays), len(abrupt)),
        "false_alarms": of_all.false_alarms,
        "healthy_steps": of_all.healthy_steps,
        "rate": rate(of_all.false_alarms, of_all.healthy_steps),
        "alarmed": share(sum(count > 0 for count in healthy), len(healthy)),
        "precision": of_all.precision,
        "undeparted": sum(_onset(run.job) == "slow" and not _slow_and_lost(run) for run in runs),
    }


def _marked(run: Judged, flags: list[tuple[int, int | None]], left: int | None) -> RunFlags:
    onset = run.job.onset
    departed = left if onset is not None and left is not None and left >= onset else None
    return RunFlags(start=0, stop=len(run.losses), flags=flags, onset=onset, departure=departed)


def _slow_and_lost(run: Judged) -> bool:
    onset = run.job.onset
    return _onset(run.job) == "slow" and onset is not None and run.departure is not None and run.departure >= onset


def _worst(found: Score, events: int) -> int | None:
    """Return the smallest lead; None where a failure was never flagged."""
    return found.worst_lead if len(found.leads) == events else None


def _onset(job: Job) -> str | None:
    return KINDS[job.kind].onset if job.kind in KINDS else None


if __name__ == "__main__":
    sys.exit(main())
