"""Groups of runs with classes of paths, made by hand."""

from __future__ import annotations

from typing import Any

from topowatch_monitor.engine.view import no_class
from topowatch_monitor.export.fleet import IngestSummary, unfitted, unseen


def run_view(run: str = "a", group: str = "g", *, seen: float = 1095.0, **changes: Any) -> Any:
    """A live run that has been analysed."""
    made = unseen(IngestSummary(tenant="", group=group, run=run, samples=0, last_received_at=seen))
    return {**made, "step": 40, "samples": 10, "loss": 0.5, **changes}


def path_class(label: int | None = 0, **changes: Any) -> Any:
    """The class of a path that is known."""
    told = {"label": label, "p_value": 1.0, "outlier": False, "abstained": False}
    return {**no_class(""), **told, **changes}


def group_view(group: str = "g", **changes: Any) -> Any:
    """Two classes: 12 runs that agree at every scale, and two that left them, one by one."""
    members = [run_view(f"seed-{number}", group) for number in range(12)]
    told = {
        "tenant": "",
        "version": 3,
        "fitted_at": 1090.0,
        "ended": 14,
        "live": 1,
        "abstained": False,
        "reason": "",
        "best_p": 1e-9,
        "explained": 0.93,
        "resolution": 0.05,
        "scale": 0.1,
        "bars": [[0.2, 0.8], [0.1, 0.3]],
        "p_values": [1e-9, 2e-5],
        "classes": [
            {"label": 0, "majority": True, "members": [member["run"] for member in members]},
            {"label": 1, "majority": False, "members": ["noisy"]},
            {"label": 2, "majority": False, "members": ["shuffled"]},
        ],
        "runs": [*(member["run"] for member in members), "noisy", "shuffled"],
        "merges": [
            [0.0, 1.0, 0.1],
            *([float(number), 12.0 + number, 0.1] for number in range(2, 12)),
            [24.0, 12.0, 0.3],
            [25.0, 13.0, 0.8],
        ],
        "outliers": ["noisy", "shuffled"],
        "spread": {
            "metric": "accuracy",
            "within": 0.004,
            "between": 0.05,
            "p_value": 0.001,
            "strata": ["lr"],
            "runs": 14,
            "verdict": "difference",
            "reason": "runs of different classes end with a different accuracy",
        },
        "fits": 3,
        "timeouts": 0,
        "refused": 0,
    }
    return {**unfitted(members), **told, **changes}
