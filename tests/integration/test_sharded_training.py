"""Sharded models in real processes: what the ranks send adds up to the unsharded model, and nothing of it is felt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client_loops import on_host
from sharded_models import Job, batch, net
from topowatch_client.probes import Probe, ProbeSettings
from topowatch_client.sketch import FoldSketch
from topowatch_client.spool_reader import SpoolReader
from topowatch_protos.v1 import run_pb2, sample_pb2

pytestmark = pytest.mark.xdist_group("sharded_training")  # what is trained once serves all tests
SCRIPT = Path(__file__).parents[1] / "sharded_models.py"
STEPS = 3


@dataclass
class Rank:
    """What one rank spooled and said."""

    descriptor: run_pb2.RunDescriptor | None
    samples: dict[int, sample_pb2.Sample]
    status: dict[str, Any]
    losses: list[str]

    @property
    def sends(self) -> bool:
        return self.descriptor is not None


def run_jobs(world: int, out: Path, jobs: list[Job]) -> None:
    """Train the jobs one after the other in `world` processes; what each rank saw lies in `out`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TOPOWATCH_")}
    text = json.dumps([job.text() for job in jobs])
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(rank), str(world), str(out), text],
            env=clean,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(process.returncode for process in processes), "\n".join(outputs)


def _rank(out: Path, rank: int) -> Rank:
    status_file = out / f"status-{rank}.json"
    status = json.loads(status_file.read_text()) if status_file.exists() else {}
    losses = json.loads((out / f"losses-{rank}.json").read_text())
    if not status.get("spool"):
        return Rank(None, {}, status, losses)
    reader, samples, descriptor = SpoolReader(Path(status["spool"])), {}, None
    while part := reader.read(1 << 30, 1 << 30):
        for entry in part:
            descriptor = entry.descriptor
            item = sample_pb2.Item.FromString(entry.envelope.item)
            if item.sample.weights.values:
                samples[item.sample.step] = item.sample
    return Rank(descriptor, samples, status, losses)


def numbers(sketch: sample_pb2.Sketch) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.frombuffer(sketch.values, "<f4")


def scalar(sample: sample_pb2.Sample, name: str) -> float:
    (series,) = [series for series in sample.scalars if series.name == name]
    return series.values[-1]


def squares(parts: list[sample_pb2.Sample], name: str) -> float:
    return float(np.sqrt(sum(scalar(part, name) ** 2 for part in parts)))


SENDERS = {
    2: {
        "ddp": [0],
        "fsdp2": [0, 1],
        "tp": [0, 1],
        "fsdp1": [0, 1],
        "fsdp1-flat": [0, 1],
        "fsdp1-grad": [0, 1],
        "fsdp1-none": [0],
    },
    4: {
        "fsdp2": [0, 1, 2, 3],
        "hsdp2": [0, 1],
        "tp+fsdp2": [0, 1, 2, 3],
        "tp+ddp": [0, 1],
        "fsdp1-hybrid": [0, 1],
    },
}


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """Train every kind of model once with 2 or 4 ranks."""
    world: int = request.param
    out = tmp_path_factory.mktemp(f"world-{world}")
    run_jobs(world, out, [Job(kind, kind, steps=STEPS) for kind in SENDERS[world]])
    return world, out


def test_the_summed_sketch_is_that_of_the_whole_model(trained: tuple[int, Path]) -> None:
    """At every step, for weights, updates and norms; who has nothing of its own to send says so."""
    world, out = trained
    for kind, senders in SENDERS[world].items():
        ranks = [_rank(out / kind, rank) for rank in range(world)]
        assert [index for index, rank in enumerate(ranks) if rank.sends] == senders, kind
        for rank in ranks:
            if rank.descriptor is None:
                assert "send" in rank.status["error"]
                continue
            assert (rank.descriptor.contributing_ranks, rank.descriptor.world_size) == (len(senders), world)
            assert rank.descriptor.key.run == ranks[0].status["run"]
            assert (rank.status["coverage"], rank.status["failures"]) == (1.0, 0)
            assert sorted(rank.samples) == list(range(STEPS))
        assert "pulse_gradient_norm" in {series.name for series in ranks[0].samples[STEPS - 1].scalars}, kind
        weights = torch.load(out / kind / "weights.pt")
        _check_sums(weights, [[ranks[index].samples[step] for index in senders] for step in range(STEPS)])


def _check_sums(weights: list[dict[str, torch.Tensor]], samples: list[list[sample_pb2.Sample]]) -> None:
    fold = FoldSketch()
    for step, parts in enumerate(samples):
        whole = fold.model(weights[step].items()).numpy()
        error = np.linalg.norm(sum(numbers(part.weights) for part in parts) - whole) / np.linalg.norm(whole)
        assert error < 1e-5
        norm = float(torch.cat([values.flatten() for values in weights[step].values()]).norm())
        assert squares(parts, "weight_norm") == pytest.approx(norm, rel=0.02)
        if step:
            change = {name: values - weights[step - 1][name] for name, values in weights[step].items()}
            whole = fold.model(change.items()).numpy()
            error = np.linalg.norm(sum(numbers(part.update) for part in parts) - whole) / np.linalg.norm(whole)
            assert error < 1e-4  # differences of float32 sketches of weights ten times as long


LONG = 200
OFTEN = {"interval": 2, "probe_interval": 4}


@pytest.fixture(scope="module")
def trained_long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train with two ranks, bare and watched in several ways."""
    out = tmp_path_factory.mktemp("long")
    jobs = [
        Job("ddp-bare", "ddp", LONG, watched=False, keep_weights=False),
        Job("ddp-watched", "ddp", LONG, probed=True, keep_weights=False, config=OFTEN),
        Job("fsdp2-bare", "fsdp2", LONG, watched=False, keep_weights=False),
        Job("fsdp2-unasked", "fsdp2", LONG, probed=True, keep_weights=False, config={"interval": 2}),
        Job("fsdp2-watched", "fsdp2", LONG, probed=True, keep_weights=False, config=OFTEN),
        Job("fsdp2-broken", "fsdp2", LONG, probed=True, keep_weights=False, config=OFTEN, broken_rank=1),
        Job("fsdp2-faltering", "fsdp2", LONG, probed=True, keep_weights=False, config=OFTEN, faltering_rank=1),
        Job("fsdp2-looks", "fsdp2", STEPS, probed=True, config={"interval": 4, "probe_interval": 1}),
    ]
    run_jobs(2, out, jobs)
    return out


@pytest.mark.slow  # eight trainings of two processes
@pytest.mark.parametrize("kind", ["ddp-watched", "fsdp2-unasked", "fsdp2-watched", "fsdp2-broken", "fsdp2-faltering"])
def test_the_losses_of_every_rank_are_bit_identical(trained_long: Path, kind: str) -> None:
    """With probes and without, and where watching fails on one rank: the others do not wait for it."""
    bare = trained_long / f"{kind.partition('-')[0]}-bare"
    for rank in range(2):
        assert len(_rank(bare, rank).losses) == LONG
        assert _rank(trained_long / kind, rank).losses == _rank(bare, rank).losses


def _probed(rank: Rank) -> list[int]:
    return [step for step, sample in sorted(rank.samples.items()) if sample.predictions.sketch.values]


@pytest.mark.slow
def test_sharded_models_are_probed_at_fixed_steps_by_all_ranks_and_only_when_asked_for(trained_long: Path) -> None:
    first, second = (_rank(trained_long / "fsdp2-watched", rank) for rank in range(2))
    assert _probed(first) == list(range(0, LONG, 4))
    assert _probed(second) == []  # it takes part; the lowest rank reports
    unasked = _rank(trained_long / "fsdp2-unasked", 0)
    assert _probed(unasked) == []
    assert "set probe_interval" in unasked.status["warning"]


@pytest.mark.slow
def test_a_rank_that_cannot_attach_ends_probing_for_all_before_it_begins(trained_long: Path) -> None:
    first, second = (_rank(trained_long / "fsdp2-broken", rank) for rank in range(2))
    assert second.status["mode"] == "disabled"
    assert "not every rank was ready" in first.status["warning"]
    assert _probed(first) == []


@pytest.mark.slow
def test_a_rank_whose_watching_ends_still_takes_part_in_the_probe_passes_of_the_others(trained_long: Path) -> None:
    first, second = (_rank(trained_long / "fsdp2-faltering", rank) for rank in range(2))
    assert second.status["mode"] == "disabled"
    assert second.status["failures"] == 3
    assert _probed(first) == list(range(0, LONG, 4))


@pytest.mark.slow
def test_a_sharded_model_predicts_what_the_whole_one_does(trained_long: Path) -> None:
    looks = trained_long / "fsdp2-looks"
    first = _rank(looks, 0)
    weights = torch.load(looks / "weights.pt")
    inputs, targets = batch(-1)
    for step in range(STEPS):
        model = net()
        model.load_state_dict(weights[step], strict=False)  # the tied weight goes by its first name
        found = on_host(Probe(model, ProbeSettings(inputs, targets), FoldSketch()).run())
        sample = first.samples[step]
        np.testing.assert_allclose(numbers(sample.predictions.sketch), found.sketch, atol=1e-5)
        assert found.losses is not None
        np.testing.assert_allclose(np.frombuffer(sample.probe_losses, "<f4"), found.losses, rtol=1e-4)
