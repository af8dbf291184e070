"""Runs that between them have every series that dashboards ask for: classes, forecasts, slices, and all that fails."""

from __future__ import annotations

import dataclasses
import itertools
import time
from typing import TYPE_CHECKING

import numpy as np

from group_runs import named, two_ways
from harness import eventually
from planned_sender import Planned
from sender import Sender, walk
from topowatch_monitor.simulate import descriptor, fleet, synthetic_run
from topowatch_monitor.store.disk import OsDisk
from topowatch_monitor.store.reader import LogReader
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2, sample_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harness import Daemon
    from topowatch_monitor.simulate import RunPlan

SAMPLES = 32  # of a run that is forecast, or learned from
SCORED = 30  # runs that have to end as forecast before their coverage is told
SLOW = 300.0  # jobs yield to everything else on the machine
TEACHERS = fleet(41, samples=SAMPLES, probes=32)
TEACHERS[:2] = [dataclasses.replace(plan, kind="stalled") for plan in TEACHERS[:2]]  # half-way, and so they stay live
FORECAST = [
    dataclasses.replace(plan, run=f"later-{plan.run}") for plan in fleet(36, seed=1, samples=SAMPLES, probes=32)
]
OF_ALL_KINDS = fleet(10, failing=0.5, samples=72, probes=32, group="kinds")
LAST = fleet(1, samples=SAMPLES, group="last")


class Synthetic(Sender):
    """Sends a simulated run that says what it is to reach, and how far it does better on its own data.

    Its losses are those of the plan times 1 to 2 by its seed: how it ends can be told from how it begins.
    """

    def __init__(self, daemon: Daemon, plan: RunPlan) -> None:
        super().__init__(daemon.grpc, plan.run, group=plan.group)
        self.descriptor = descriptor(plan, incarnation=1, started_at=time.time())
        self.descriptor.labels["forecast_target"] = "0.0"
        times = 1 + plan.seed % 8 / 7
        self.whole = [scaled(item, times) for item in synthetic_run(plan, started_at=time.time())]
        self.items = iter(self.whole)

    def send(self, most: int) -> None:
        """Send what is left, and no more than `most` items."""
        self.push_until_stored(self.batch(min(most, len(self.whole) - self.next_seq)))


def scaled(encoded: bytes, times: float) -> bytes:
    """Multiply the losses; tell beside the one that a run ends with by how much it does better on its own data."""
    item = sample_pb2.Item.FromString(encoded)
    for scalar in item.sample.scalars:
        if scalar.name == "loss":
            scalar.values[:] = [value * times for value in scalar.values]
    if item.HasField("end"):
        item.end.results["loss"] *= times
        item.end.results["generalization_gap"] = item.end.results["loss"] / 10
    return item.SerializeToString()


def searched() -> Iterator[bytes]:
    """Samples of a run that tells its gradients and its critical steps, and at last a slice of its loss."""
    for encoded in itertools.islice(walk(0), 12):
        item = sample_pb2.Item.FromString(encoded)
        sample = item.sample
        sample.gradient.values = sample.weights.values  # those of a bowl about 0
        sample.curvature.CopyFrom(sample_pb2.Curvature(secant=2.0, critical_step=1.5, learning_rate=0.1))
        if sample.step == 11:
            bowl = np.add.outer(np.arange(-2, 3) ** 2, np.arange(-2, 3) ** 2).astype("<f4")
            bowl[0, 0] = 0.0  # a second basin
            plane = sample_pb2.LossSlice(rows=5, columns=5, extent=1.0, values=bowl.tobytes(), step=sample.step)
            sample.loss_slice.CopyFrom(plane)
        yield item.SerializeToString()


def feed(daemon: Daemon) -> None:
    """Send what classes and forecasts come of, and wait until the forecasts of FORECAST can be scored.

    Restarts the daemon, because a group that was learned from rests: what is learned after a start is of all its runs.
    """
    over, under = two_ways(14, 6)
    for run, path in named(over, under).items():
        Planned(daemon, run, path, group="sweep", accuracy=0.9 if run.startswith("a") else 0.8).send(end=True)
    slices = Sender(daemon.grpc, "searched", group="slices")
    slices.items = searched()
    slices.push_until_stored(slices.batch(12))
    slices.close()
    send_whole(daemon, TEACHERS)
    halves = [Synthetic(daemon, plan) for plan in FORECAST]
    for half in halves:
        half.send(SAMPLES // 2)
    daemon.stop()
    daemon.start()
    eventually(lambda: len(forecast(daemon)) >= SCORED, within=SLOW)
    for half in halves:
        half.send(SAMPLES)
        half.close()
    eventually(lambda: ended(daemon) >= {plan.run for plan in FORECAST}, within=SLOW)
    daemon.stop()
    daemon.start()


def send_whole(daemon: Daemon, plans: Iterable[RunPlan]) -> None:
    for plan in plans:
        sender = Synthetic(daemon, plan)
        sender.send(plan.samples + 1)
        sender.close()


def forecast(daemon: Daemon) -> set[str]:
    """Those of FORECAST of which the daemon's log holds a forecast."""
    records = LogReader(daemon.data_dir / "log", OsDisk()).read(0, 1 << 62)
    made = [log_pb2.Forecast.FromString(record.payload) for record in records if record.kind == LogKind.FORECAST]
    return {each.key.run for each in made} & {plan.run for plan in FORECAST}


def ended(daemon: Daemon) -> set[str]:
    told = daemon.get("/api/v1/groups/simulated/forecast")["runs"]
    return {run["run"] for run in told if run["state"] == "ended"}
