"""On sharded models a probe pass is collective: all ranks make the same calls and see what one process would."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

JOB = """
    import copy, sys
    import numpy as np
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
    from client_loops import on_host
    from tiny_gpt import TinyGPT
    from topowatch_client import probe_plan
    from topowatch_client.probes import Probe, ProbeSettings
    from topowatch_client.sketch import FoldSketch

    kind, rank, store = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    probe_plan.BUDGET = 62 * 24 // 2  # less than one sequence has
    torch.manual_seed(0)
    model = TinyGPT(62, 24)
    model.head = nn.Linear(32, 62)
    single = copy.deepcopy(model)
    if kind == "fsdp":
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    else:
        plan = ColwiseParallel(output_layouts=Shard(-1), use_local_output=False)
        parallelize_module(model, mesh, {"head": plan})
    text = torch.randint(62, (9, 25), generator=torch.Generator().manual_seed(1))
    inputs, targets = text[:, :-1], text[:, 1:]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step():
        logits = model(inputs).logits
        logits = logits.full_tensor() if hasattr(logits, "full_tensor") else logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    expected = on_host(Probe(single, ProbeSettings(inputs, targets, positions=32), FoldSketch()).run(frames=True))
    probe = Probe(model, ProbeSettings(inputs, targets, positions=32), FoldSketch())
    for _ in range(2):
        seen = on_host(probe.run(frames=True))
        np.testing.assert_allclose(seen.sketch, expected.sketch, atol=1e-5)
        np.testing.assert_allclose(seen.losses, expected.losses, rtol=1e-4)
        np.testing.assert_allclose(seen.frames, expected.frames, atol=2e-3)
        assert len(seen.layers) > 8
    step()

    def unlucky(outputs, targets):
        if rank == 1:
            raise RuntimeError("out of luck")

    failing = Probe(model, ProbeSettings(inputs, targets, loss=unlucky, positions=32), FoldSketch())
    for _ in range(2):
        try:
            failing.run()
            assert rank == 0
        except RuntimeError as error:
            assert rank == 1 and "out of luck" in str(error), error
        step()
    assert not np.allclose(on_host(probe.run()).losses, expected.losses)
    dist.destroy_process_group()
"""


@pytest.mark.parametrize("kind", ["fsdp", "tensor-parallel"])
def test_two_ranks_see_what_one_process_sees(kind: str, tmp_path: Path) -> None:
    """And a loss that fails on one rank leaves neither the other nor the next pass waiting."""
    jobs = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(JOB), kind, str(rank), str(tmp_path / "store")],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for job in jobs:
            _, errors = job.communicate(timeout=240)
            assert job.returncode == 0, errors
    finally:
        for job in jobs:
            job.kill()
            job.communicate()
