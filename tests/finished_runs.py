"""Ended runs whose skill shows in what they were like on their way, made by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from topowatch_monitor.engine.finished import Finished
from topowatch_monitor.engine.milestones import Milestone
from topowatch_monitor.forecast.table import FEATURES, NAMES

STEPS, PROBES, CLASSES = 320, 64, 5
TRUTH = np.random.default_rng(99).integers(0, CLASSES, PROBES)


def milestone(step: int, skill: float, rng: np.random.Generator) -> Milestone:
    """Of a run whose skill shows in some features, the more the farther it has come, and in what it predicts."""
    features = np.exp(0.3 * rng.standard_normal(len(NAMES)))
    unknown = [feature.family in ("siblings", "curve") for feature in FEATURES]  # until they are looked up
    features[unknown] = np.nan
    progress = (step + 1) / STEPS
    features[NAMES.index("loss")] = math.exp(-2 * skill * progress + 0.05 * rng.standard_normal())
    features[NAMES.index("dimension")] = 1 + skill * progress + 0.05 * rng.standard_normal()
    right = rng.random(PROBES) < 0.2 + 0.7 * skill * progress
    predicted = np.where(right, TRUTH, rng.integers(0, CLASSES, PROBES)).astype(np.uint32)
    return Milestone(step, features, predicted, np.full(PROBES, 0.5, dtype=np.float16))


def finished(
    number: int,
    skill: float,
    *,
    steps: int = STEPS,
    results: dict[str, float] | None = None,
    curve_of_metric: bool = False,
    group: str = "g",
) -> Finished:
    rng = np.random.default_rng(number)
    milestones = [milestone(step, skill, rng) for step in [*range(0, steps - 1, 10), steps - 1]]
    known = {"test_accuracy": 0.3 + 0.6 * skill + 0.01 * rng.standard_normal()} if results is None else results
    at = np.arange(0, steps, 20)
    curve = known.get("test_accuracy", 0.5) - 0.5 * (at + 1.0) ** -0.5
    return Finished(
        run=f"r{number:03d}",
        group=group,
        labels={},
        digest="aa",
        classes=CLASSES,
        results=known,
        steps=steps,
        milestones=milestones,
        curves={"test_accuracy": (at, curve)} if curve_of_metric else {},
        forecasts=[],
    )


def fleet(count: int = 24, **how: Any) -> list[Finished]:
    skills = np.random.default_rng(0).random(count)
    return [finished(number, float(skill), **how) for number, skill in enumerate(skills)]
