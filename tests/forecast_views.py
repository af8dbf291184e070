"""Forecasts of groups, made by hand."""

from __future__ import annotations

from typing import Any


def score_view(r2: float | None, runs: int = 20, coverage: float | None = None) -> dict[str, Any]:
    return {"runs": runs, "r2": r2, "error": 0.01, "tau": 0.8, "coverage": coverage}


def learned_view(group: str = "g", **changes: Any) -> Any:
    """What was learned from 20 ended runs, 15 of which had been forecast half-way."""
    levels = [
        {
            "share": share,
            "made": score_view(r2 - 0.02, 15, 0.93),
            "left_out": score_view(r2),
            "without_topology": r2 - 0.01,
            "topological": share < 1,
            "plain_of_made": r2 - 0.21,
            "halving": {"saved": (1 - share) / 2, "regret": 0.0, "kept_best": True},
            "baselines": {"last value": r2 - 0.2, "loss only": r2 - 0.3},
            "gap": None,
        }
        for share, r2 in ((0.25, 0.81), (0.5, 0.9), (1.0, 0.97))
    ]
    told = {
        "tenant": "",
        "group": group,
        "metric": "test_accuracy",
        "reason": "",
        "higher_is_better": True,
        "runs": 20,
        "others": [],
        "steps": 1000,
        "levels": levels,
    }
    return {**told, **changes}


def forecast(value: float, width: float = 0.02, **changes: Any) -> Any:
    told = {"metric": "test_accuracy", "value": value, "lower": value - width, "upper": value + width}
    told |= {"others": 0, "target": None, "misses_target": None}
    told |= {"gap": None, "drivers": {"siblings": 0.03, "loss": -0.01}}
    return {**told, "step": 249, "early": False, "abstained": False, "reason": "", **changes}
