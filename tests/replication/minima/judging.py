"""What the daemon would have flagged: items of a run go through the run state one by one, as they arrived."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from rich.progress import MofNCompleteColumn, Progress

from replication.minima.suite import read
from topowatch_monitor.detect import DETECTORS, Thresholds
from topowatch_monitor.detect.departure import departure
from topowatch_monitor.detect.instability import HORIZON
from topowatch_monitor.engine.run_state import RunSettings, RunState
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2, run_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replication.minima.training import Job

TOPOLOGICAL = frozenset({"orbiting"})  # what looks at the shape of the path
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

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return which items came before any departure (M), and after which of these one came within the horizon."""
        if self.departure is None:
            return np.ones(len(self.steps), bool), np.zeros(len(self.steps), bool)
        before = self.steps < self.departure
        return before, self.departure - self.steps[before] <= HORIZON


def reliability(runs: Sequence[Judged], bins: int = 10) -> list[dict[str, float]]:
    """Return, for moments by their score: how many, their mean score, the share that ended in a departure soon."""
    scores = np.concatenate([run.scores[run.moments()[0]] for run in runs])
    ended = np.concatenate([run.moments()[1] for run in runs])
    which = np.minimum((scores * bins).astype(int), bins - 1)
    return [
        {
            "moments": int((which == each).sum()),
            "score": float(scores[which == each].mean()),
            "departed": float(ended[which == each].mean()),
        }
        for each in range(bins)
        if (which == each).any()
    ]


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
    state = RunState("default", descriptor.key.group, descriptor.key.run, RunSettings(thresholds=thresholds))
    state.apply(LogKind.RUN_OPENED, log_pb2.RunOpened(descriptor=descriptor).SerializeToString())
    ends, data = np.cumsum(arrays["lengths"]), arrays["items"].tobytes()
    arrived = np.searchsorted(arrays["arrived"], np.arange(1, len(ends) + 1))
    arrived = arrived[arrived < len(arrays["losses"])]  # without what `finish` sent
    levels, flags, scores = [], [], []
    for start, end in zip((ends - arrays["lengths"])[: len(arrived)], ends[: len(arrived)], strict=True):
        stored = log_pb2.StoredItem(key=descriptor.key, incarnation=descriptor.incarnation, item=data[start:end])
        state.apply(LogKind.STORED_ITEM, stored.SerializeToString())
        view = state.view()
        levels.append(state.judgement.levels)
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
