"""What the daemon would have flagged: items of a run go through the run state one by one, as they arrived."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import MofNCompleteColumn, Progress

from replication.minima.suite import read
from replication.minima.training import INTERVALS
from topowatch_monitor.detect import DETECTORS, Thresholds
from topowatch_monitor.detect.departure import departure, standing
from topowatch_monitor.detect.instability import HORIZON
from topowatch_monitor.engine.path_state import PathSettings
from topowatch_monitor.engine.run_state import RunState
from topowatch_monitor.engine.told import RunSettings
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2, run_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replication.minima.training import Job

TOPOLOGICAL = frozenset({"orbiting"})  # what looks at the shape of the path
DENSE = PathSettings(window=64, h1_every=4)  # where there are many looks: loops of 512 steps, looked for in every 32
CRITICAL = tuple(detector.name for detector in DETECTORS if detector.severity == "critical")


@dataclass(frozen=True)
class Judged:
    """One run as the daemon saw it, after each of M items.

    Attributes:
        steps: the last training step that had ended when the item was in the spool (int64, M).
        levels: of each detector (M), by name.
        flags: whether each detector was on (bool, M), by name.
        scores: the instability score (M).
        losses: at every step, T.
        departure: as departure.py defines it.
    """

    job: Job
    steps: np.ndarray
    levels: dict[str, np.ndarray]
    flags: dict[str, np.ndarray]
    scores: np.ndarray
    losses: np.ndarray
    departure: int | None

    @cached_property
    def seen(self) -> int | None:
        """When anybody sees it: the first five losses in a row from the onset on that stand 0.5 nat too high."""
        return None if self.job.onset is None else standing(self.losses, self.job.onset)

    def delayed(self, items: int) -> Judged:
        """Return what the daemon would have seen had so many items waited for each other, as where steps are short."""
        last = np.unique(np.minimum((np.arange(len(self.steps)) // items + 1) * items, len(self.steps)) - 1)
        flags, levels = ({name: each[last] for name, each in of.items()} for of in (self.flags, self.levels))
        return replace(self, steps=self.steps[last], flags=flags, levels=levels, scores=self.scores[last])

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return which items came before any departure (M), and after which of these one came within the horizon."""
        if self.departure is None:
            return np.ones(len(self.steps), bool), np.zeros(len(self.steps), bool)
        before = self.steps < self.departure
        return before, self.departure - self.steps[before] <= HORIZON


def reliability(runs: Sequence[Judged], bins: int = 10) -> list[dict[str, Any]]:
    """Return, for moments by their score: how many, their mean score, the share that ended in a departure soon.

    That share has an interval of the bootstrap over runs.
    """
    pairs = [(run.scores[run.moments()[0]], run.moments()[1]) for run in runs]
    which = [np.minimum((scores * bins).astype(int), bins - 1) for scores, _ in pairs]
    chosen = np.random.default_rng(0).integers(len(runs), size=(1000, len(runs)))
    found = []
    for each in range(bins):
        counts = np.array([(places == each).sum() for places in which])
        lost = np.array([ended[places == each].sum() for (_, ended), places in zip(pairs, which, strict=True)])
        if not counts.any():
            continue
        scores = np.concatenate([scores[places == each] for (scores, _), places in zip(pairs, which, strict=True)])
        totals = counts[chosen].sum(axis=1)
        drawn = lost[chosen].sum(axis=1)[totals > 0] / totals[totals > 0]  # where none of its moments is drawn, none is
        share = (float(lost.sum() / counts.sum()), *np.quantile(drawn, (0.025, 0.975)).tolist())
        runs_of = int((counts > 0).sum())
        found.append({"moments": int(counts.sum()), "runs": runs_of, "score": float(scores.mean()), "departed": share})
    return found


def judge(jobs: Sequence[Job], thresholds: Thresholds | None = None) -> list[Judged]:
    """Judge kept runs, on all cores."""
    with (
        Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress,
        ProcessPoolExecutor(os.cpu_count()) as pool,
    ):
        found = pool.map(partial(_follow, thresholds=thresholds or Thresholds()), jobs, chunksize=4)
        return list(progress.track(found, total=len(jobs), description="judging"))


def _follow(job: Job, thresholds: Thresholds) -> Judged:
    arrays = read(job)
    descriptor = run_pb2.RunDescriptor.FromString(arrays["descriptor"].tobytes())
    settings = RunSettings(
        thresholds=thresholds, path=DENSE if job.interval < INTERVALS["interval"] else PathSettings()
    )
    state = RunState("default", descriptor.key.group, descriptor.key.run, settings)
    state.apply(LogKind.RUN_OPENED, log_pb2.RunOpened(descriptor=descriptor).SerializeToString())
    ends, data = np.cumsum(arrays["lengths"]), arrays["items"].tobytes()
    arrived = np.searchsorted(arrays["arrived"], np.arange(1, len(ends) + 1))
    arrived = arrived[arrived < len(arrays["losses"])]  # without what `finish` sent
    levels, flags, scores = [], [], []
    for start, end in zip((ends - arrays["lengths"])[: len(arrived)], ends[: len(arrived)], strict=True):
        stored = log_pb2.StoredItem(key=descriptor.key, incarnation=descriptor.incarnation, item=data[start:end])
        state.apply(LogKind.STORED_ITEM, stored.SerializeToString())
        view = state.view()
        levels.append(state.told.judgement.levels)
        flags.append({flag["detector"] for flag in view["flags"]})
        scores.append(view["instability_score"])
    names = [detector.name for detector in DETECTORS]
    return Judged(
        job,
        arrived,
        {name: np.array([each.get(name, 0.0) for each in levels]) for name in names},
        {name: np.array([name in each for each in flags]) for name in names},
        np.array(scores, float),
        arrays["losses"],
        departure(arrays["losses"]),
    )
