"""A sweep through a real daemon: its outlier is named everywhere, and names outlive a SIGKILL."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from group_runs import DIGEST, named, two_ways
from harness import Daemon, eventually
from sender import Sender
from topowatch_protos.v1 import sample_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

DIMS = 8
SWEEP = "sweep"
OVER, UNDER = two_ways(14, 2, dims=DIMS)
SETTLED = named(OVER[:13], UNDER[:1])
SLOW = 120.0  # refits yield to everything else on the machine


class Planned(Sender):
    """A writer whose predictions follow a planned path, and that tells its result at the end."""

    def __init__(self, daemon: Daemon, run: str, path: NDArray[Any]) -> None:
        super().__init__(daemon.grpc, run, group=SWEEP)
        self.descriptor.sketch.dimension = DIMS
        self.descriptor.probe.digest = DIGEST
        self.path = path
        self.items = self._planned(path)

    def send(self, *, end: bool) -> None:
        self.push_until_stored(self.batch(len(self.path) + end))
        self.close()

    def _planned(self, path: NDArray[Any]) -> Iterator[bytes]:
        for step, point in enumerate(path):
            sample = sample_pb2.Sample(step=step)
            sample.predictions.sketch.values = point.astype("<f4").tobytes()
            yield sample_pb2.Item(schema=1, sample=sample).SerializeToString()
        end = sample_pb2.RunEnd(step=len(path) - 1, results={"accuracy": 0.9})
        yield sample_pb2.Item(schema=1, end=end).SerializeToString()


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
        Planned(daemon, run, path).send(end=True)
    Planned(daemon, "live", UNDER[1]).send(end=False)
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
