"""Reports of a daemon that is too busy to draw: they end, hold what there is, and say what they lack."""

from __future__ import annotations

from typing import Any

import pytest

from topowatch_monitor.commands import report
from topowatch_monitor.commands.daemon import BusyError

RUNS = [{"run": f"r{number:02d}"} for number in range(40)]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs whose drawings are asked for; the daemon answers all else, and draws none but r03 and r20."""
    found: list[str] = []

    def shape(_url: str, run: str, *_: Any) -> dict[str, Any]:
        found.append(run)
        if run not in {"r03", "r20"}:
            raise BusyError("busy")
        return {"weights": None}

    monkeypatch.setattr(report, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(report, "fetch_group", lambda *_: {"tenant": "t"})
    monkeypatch.setattr(report, "fetch_runs", lambda *_: {"now": 1.0, "runs": RUNS})
    for name in ("fetch_forecasts", "fetch_map", "fetch_run"):
        monkeypatch.setattr(report, name, lambda *_: {})
    monkeypatch.setattr(report, "fetch_shape", shape)
    return found


def test_of_a_daemon_that_stays_busy_no_more_is_asked_after_some_drawings_in_a_row(asked):
    told = report.gather("http://127.0.0.1:7071", "g", None)
    assert asked == [f"r{number:02d}" for number in range(4 + report.MOST_IN_VAIN)]
    assert told["answers"]["runs/r03/shape"] == {"weights": None}
    assert len(told["problems"]) == len(RUNS) - 1
    assert {f"runs/{run['run']}" for run in RUNS} <= told["answers"].keys()
    assert "too busy" in told["problems"]["runs/r39/shape"]
