"""A real Ray Train job of two workers: one run under the name of the experiment, whatever becomes of a worker."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from client_loops import items_in, merged

if TYPE_CHECKING:
    from pathlib import Path

    from topowatch_protos.v1 import sample_pb2

JOB = """
    import json, os, pathlib, sys
    import ray, torch
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer, prepare_model
    from torch import nn

    def train_loop_per_worker(config):
        torch.manual_seed(0)
        torch.set_num_threads(1)
        model = prepare_model(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3)))
        optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"])
        inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(ray.train.get_context().get_world_rank()))
        losses = []

        def steps(run):
            for step in range(config["start"], 6):
                if step == 4 and os.path.exists(config["breaks"]):
                    os.unlink(config["breaks"])
                    raise RuntimeError("the disk with the data is gone")
                loss = model(inputs).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item().hex())
                if run:
                    run.log(loss=loss)
            metrics = {"loss_at_the_end": losses[-1], "accuracy": 0.5}
            run.report(metrics) if run else ray.train.report(metrics)

        if not config["watched"]:
            steps(None)
        else:
            from topowatch_client.integrations.ray_train import TopowatchRun

            with TopowatchRun(
                model, optimizer, hyperparameters=config, labels={"breaks": "maybe"}, probe=(inputs[:2], None),
                config={"mode": "offline", "spool_dir": pathlib.Path(config["spool"]), "interval": 1},
            ) as run:
                steps(run)
            place = pathlib.Path(config["spool"]) / f"status-{ray.train.get_context().get_world_rank()}.json"
            place.write_text(json.dumps(run.watch.status))

    storage, spool, breaks = sys.argv[1:]
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    ended = []
    for watched in (False, True):
        if watched:
            pathlib.Path(breaks).touch()
        result = TorchTrainer(
            train_loop_per_worker,
            train_loop_config={"lr": 0.1, "start": 0, "watched": watched, "spool": spool, "breaks": breaks},
            scaling_config=ScalingConfig(num_workers=2),
            run_config=RunConfig(name=f"tiny-{watched}", storage_path=storage, failure_config=FailureConfig(1)),
        ).fit()
        ended.append(result.metrics["loss_at_the_end"])
    print(json.dumps(ended))
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Train unwatched, then watched with a worker that fails once; return (last losses, spool directory)."""
    root = tmp_path_factory.mktemp("ray-train")
    (root / "spool").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(JOB), str(root), str(root / "spool"), str(root / "breaks")],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), root / "spool"
