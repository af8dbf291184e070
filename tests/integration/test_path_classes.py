"""A sweep through a real daemon: its outlier is named everywhere, and names outlive a SIGKILL."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from group_runs import named, two_ways
from harness import Daemon, eventually
from planned_sender import DIMS, Planned

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SWEEP = "sweep"
OVER, UNDER = two_ways(14, 2, dims=DIMS)
SETTLED = named(OVER[:13], UNDER[:1])
SLOW = 120.0  # refits yield to everything else on the machine


def classes(daemon: Daemon) -> dict[str, Any]:
    return daemon.get(f"/api/v1/groups/{SWEEP}/classes")


def names(told: dict[str, Any]) -> dict[str, int]:
    return {run: each["label"] for each in told["classes"] for run in each["members"]}


@pytest.mark.parametrize(
    "engine", ["inline", pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.xdist_group("ray")])]
)
def test_the_outlier_of_a_sweep_is_named_everywhere_and_names_outlive_a_kill(
    make_daemon: Callable[..., Daemon], tmp_path: Path, engine: str
) -> None:
    config = tmp_path / "topowatch.toml"
    config.write_text("atlas_seconds = 1.0\n")
    daemon = make_daemon("--engine", engine, "--config", str(config))
    for run, path in SETTLED.items():
        Planned(daemon, run, path, group=SWEEP).send(end=True)
    Planned(daemon, "live", UNDER[1], group=SWEEP).send(end=False)
    told = eventually(lambda: (found := classes(daemon))["ended"] == 14 == len(found["runs"]) and found, within=SLOW)
    assert (told["abstained"], told["outliers"]) == (False, ["b00"])
    assert {run for run, label in names(told).items() if label == names(told)["b00"]} == {"b00"}
    assert len(told["merges"]) == 13

    live = eventually(lambda: (found := daemon.run("live")["path_class"])["label"] is not None and found, within=SLOW)
    assert (live["label"], live["provisional"], live["outlier"]) == (names(told)["b00"], True, False)
    assert daemon.metric("topowatch_path_outlier", run="b00") == 1.0
    assert {daemon.metric("topowatch_path_outlier", run=run) for run in SETTLED if run != "b00"} == {0.0}
    assert daemon.metric("topowatch_group_classes", group=SWEEP) == 2.0
    printed = subprocess.run(
        [sys.executable, "-m", "topowatch_monitor", "classes", SWEEP, "--url", f"http://{daemon.http}"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert "outlier" in printed.stdout
    assert "b00" in printed.stdout

    daemon.kill()
    daemon.start()
    again = eventually(lambda: (found := classes(daemon))["version"] > told["version"] and found, within=SLOW)
    assert names(again) == names(told)
    assert again["outliers"] == ["b00"]
    eventually(lambda: daemon.metric("topowatch_path_outlier", run="b00") == 1.0)
    eventually(lambda: daemon.run("live")["path_class"]["label"] == live["label"], within=SLOW)
