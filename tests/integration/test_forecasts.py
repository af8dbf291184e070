"""A run that still goes on is told how it will end, by what its ended siblings were like, also after a SIGKILL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from harness import Daemon, eventually, topowatch
from topowatch_monitor.store.disk import OsDisk
from topowatch_monitor.store.reader import LogReader
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

GROUP, LIVE, SILENT = "simulated", "stalled-0016", "stalled-0033"  # of the 41 runs, those that fall silent half-way
ENDED = 39
SLOW = 120.0  # jobs yield to everything else on the machine
SEND = ["simulate", "--runs", "41", "--failing", "0.3", "--samples", "32", "--probes", "32", "--rate", "0"]


def command(*arguments: str) -> str:
    done = topowatch(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def made(daemon: Daemon) -> dict[str, Any] | None:
    """The forecast of the live run, once there is one."""
    told = daemon.get(f"/api/v1/runs/{LIVE}")["forecast"]
    return None if told["abstained"] else told


def ended(daemon: Daemon) -> list[dict[str, Any]]:
    """The runs that have ended."""
    return [run for run in daemon.get(f"/api/v1/groups/{GROUP}/forecast")["runs"] if run["state"] == "ended"]


def logged(daemon: Daemon) -> list[log_pb2.Forecast]:
    """The forecasts in the daemon's log."""
    records = LogReader(daemon.data_dir / "log", OsDisk()).read(0, 1 << 62)
    return [log_pb2.Forecast.FromString(record.payload) for record in records if record.kind == LogKind.FORECAST]


@pytest.mark.parametrize(
    "engine", ["inline", pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.xdist_group("ray")])]
)
def test_a_live_run_is_forecast_from_its_ended_siblings(make_daemon: Callable[..., Daemon], engine: str) -> None:
    daemon = make_daemon("--engine", engine)
    command(*SEND, "--endpoint", daemon.grpc)
    eventually(lambda: len(ended(daemon)) == ENDED, within=SLOW)
    daemon.kill()
    daemon.start()  # what follows was learned from all of them, not from those that had ended when learning began
    first = eventually(lambda: made(daemon), within=SLOW)
    assert first["metric"] == "loss"
    assert first["lower"] < first["value"] < first["upper"]
    group = daemon.get(f"/api/v1/groups/{GROUP}/forecast")
    assert (group["abstained"], group["reason"]) == (False, "")
    told = {run["run"]: run["reason"] for run in group["runs"]}
    assert told.pop(LIVE) == ""
    told.pop(SILENT)
    assert set(told.values()) == {"it has ended"}
    shown = command("show", LIVE, "--url", f"http://{daemon.http}")
    assert "Forecast" in shown
    assert "(90 %)" in shown
    of_live = (LIVE, first["step"], "loss", first["value"])
    eventually(lambda: of_live in [(made.key.run, made.step, made.metric, made.value) for made in logged(daemon)])
    assert "loss, learned from" in command("forecast", GROUP, "--url", f"http://{daemon.http}")
    daemon.kill()
    daemon.start()
    again = eventually(lambda: made(daemon), within=SLOW)
    assert (again["metric"], again["step"]) == ("loss", first["step"])
    assert abs(again["value"] - first["value"]) <= 1e-6 * abs(first["value"])


@pytest.mark.slow
def test_a_new_group_is_learned_about_from_three_others(make_daemon: Callable[..., Daemon]) -> None:
    """Its own ended runs are too few, and one of its runs is live."""
    daemon = make_daemon("--engine", "inline")
    for seed, group in enumerate(("a", "b", "c")):
        command(*SEND, "--group", group, "--seed", str(seed), "--endpoint", daemon.grpc)
    few = [*SEND[:2], "5", "--failing", "1", *SEND[5:], "--seed", "9"]
    command(*few, "--group", "new", "--endpoint", daemon.grpc)

    def learned() -> dict[str, Any] | None:
        views = daemon.get("/api/v1/groups/new/forecast")["learned"]
        return views[0] if views and views[0]["others"] else None

    view = eventually(learned, within=2 * SLOW)
    assert (view["metric"], view["others"]) == ("loss", ["a", "b", "c"])
    live = [run for run in daemon.get("/api/v1/groups/new/forecast")["runs"] if run["state"] == "live"]
    assert len(live) == 1
    assert live[0]["reason"] or (live[0]["others"] == 3 and live[0]["lower"] < live[0]["value"] < live[0]["upper"])
    assert "of a, b, c" in command("forecast", "new", "--url", f"http://{daemon.http}")
    assert "new" in command("forecast", "--url", f"http://{daemon.http}")
