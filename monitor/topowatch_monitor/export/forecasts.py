"""What is answered about the forecasts of a group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from topowatch_monitor.engine.forecast_view import GroupForecastView
    from topowatch_monitor.export.fleet import FleetRun

NO_LIVE_RUN = "none of its runs is live"


def forecast_answer(group: str, runs: Sequence[FleetRun], learned: Sequence[GroupForecastView]) -> dict[str, Any]:
    """Lay out the forecasts of a group's runs.

    Args:
        group: its name.
        runs: of it.
        learned: what was learned from it, by each tenant that has a group of that name.
    """
    live = [run["forecast"] for run in runs if run["state"] == "live"]
    abstained = all(forecast["abstained"] for forecast in live)
    reasons = sorted({forecast["reason"] for forecast in live if forecast["abstained"]})
    reason = "; ".join(reasons) if live else NO_LIVE_RUN
    return {
        "group": group,
        "abstained": abstained,
        "reason": reason if abstained else "",
        "learned": list(learned),
        "runs": [{"run": run["run"], "state": run["state"], "at": run["step"], **run["forecast"]} for run in runs],
    }
