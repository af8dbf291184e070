"""A real Ray Train job of two workers that watch their loops: one run, under the name of the experiment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from client_loops import entries_at, items_at, merged

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]
QUICK = {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}  # Ray's processes yield to all others as a rule
JOB = """
    import json, pathlib, sys
    import ray.train, torch
    from ray.train.torch import TorchTrainer, prepare_model
    from torch import nn

    def train_loop_per_worker(config):
        from topowatch_client.integrations.ray_train import TopowatchRun

        rank = ray.train.get_context().get_world_rank()
        inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(rank))
        settings = {"mode": "offline", "spool_dir": pathlib.Path(config["spool"]), "interval": 1, "probe_interval": 2}
        torch.set_num_threads(1)

        def prepared():
            torch.manual_seed(0)
            network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
            model = prepare_model(network)
            return model, torch.optim.SGD(model.parameters(), lr=config["lr"])

        def train(model, optimizer, log=None, broken_at=None):
            losses = []
            for step in range(6):
                if step == broken_at:
                    raise RuntimeError("the disk with the data is gone")
                loss = model(inputs).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                if log:
                    log(loss=loss)
            return losses

        outcome = {"bare": train(*prepared())}
        try:
            model, optimizer = prepared()
            with TopowatchRun(model, optimizer, config=settings) as run:
                train(model, optimizer, run.log, broken_at=4)
        except RuntimeError as error:
            outcome |= {"error": str(error), "broken": run.watch.status}
        model, optimizer = prepared()
        with TopowatchRun(
            model, optimizer, hyperparameters=config, labels={"lr": "mine"}, probe=(inputs[:2], None), config=settings
        ) as run:
            outcome["watched"] = train(model, optimizer, run.log)
            run.report({"accuracy": 0.5, "note": "no number"})
        outcome["whole"] = run.watch.status
        pathlib.Path(config["spool"], f"{rank}.json").write_text(json.dumps(outcome))

    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    TorchTrainer(
        train_loop_per_worker,
        train_loop_config={"lr": 0.1, "spool": sys.argv[2]},
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        run_config=ray.train.RunConfig(name="tiny", storage_path=sys.argv[1]),
    ).fit()
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Run the job; return what became of each worker."""
    storage, spool = tmp_path_factory.mktemp("storage"), tmp_path_factory.mktemp("spool")
    job = [sys.executable, "-c", textwrap.dedent(JOB), str(storage), str(spool)]
    done = subprocess.run(job, env={**os.environ, **QUICK}, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads((spool / f"{rank}.json").read_text()) for rank in range(2)]


def test_losses_are_bit_identical_on_every_worker(outcomes: list[dict[str, Any]]) -> None:
    for outcome in outcomes:
        assert outcome["watched"] == outcome["bare"]
        assert len(outcome["bare"]) == 6
    assert outcomes[0]["bare"] != outcomes[1]["bare"]


def test_the_run_is_named_for_the_experiment_and_one_worker_sends_it(outcomes: list[dict[str, Any]]) -> None:
    whole = [outcome["whole"] for outcome in outcomes]
    assert [status["run"] for status in whole] == ["tiny", "tiny"]
    assert [status["mode"] for status in whole] == ["finished", "disabled"]
    assert "rank 1 of 2" in whole[1]["error"]
    descriptor = entries_at(whole[0]["spool"])[0].descriptor
    assert (descriptor.rank, descriptor.world_size) == (0, 2)
    assert descriptor.labels["lr"] == "mine"
    assert "spool" in descriptor.labels
    assert whole[0]["failures"] == 0


def test_steps_scalars_and_results_are_those_of_the_loop(outcomes: list[dict[str, Any]]) -> None:
    found = items_at(outcomes[0]["whole"]["spool"])
    seen = [item.sample for item in found if item.HasField("sample")]
    assert [sample.step for sample in seen if sample.weights.values] == list(range(6))
    assert merged(seen, "loss") == dict(enumerate(outcomes[0]["watched"]))
    assert merged(seen, "accuracy") == {5: 0.5}
    assert dict(found[-1].end.results) == {"accuracy": 0.5}


def test_a_block_that_raises_does_not_claim_to_have_ended(outcomes: list[dict[str, Any]]) -> None:
    """The error reaches Ray as it was raised."""
    assert [outcome["error"] for outcome in outcomes] == ["the disk with the data is gone"] * 2
    found = items_at(outcomes[0]["broken"]["spool"])
    assert max(item.sample.step for item in found) == 3
    assert not any(item.HasField("end") for item in found)
