"""Models sharded over real processes, for the client's tests: run as a script, one process a rank, gloo on the CPU.

`python sharded_models.py RANK WORLD OUT_DIR JOBS` trains one job after the other and leaves in OUT_DIR/<name of the
job> what this rank saw; JOBS is JSON, see `Job`. The first weights, and the data of a step, are those of every job.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

WIDTH, HIDDEN, CLASSES, BATCH = 10, 14, 3, 8


@dataclass
class Job:
    """One training on all ranks."""

    name: str
    kind: str
    steps: int = 3
    watched: bool = True
    probed: bool = False
    keep_weights: bool = True  # the whole ones after every step; collective
    config: dict[str, Any] = field(default_factory=dict)
    broken_rank: int | None = None  # whose attach fails
    faltering_rank: int | None = None  # whose looks at the weights fail from step 5 on

    def text(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class Net(nn.Module):
    """Uneven sizes, a tied pair, a frozen layer, a norm, a bias that no two ranks can share evenly."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN).requires_grad_(False)
        self.up = nn.Linear(HIDDEN, 3 * HIDDEN)
        self.down = nn.Linear(3 * HIDDEN, HIDDEN)
        self.tied = nn.Linear(HIDDEN, HIDDEN)
        self.again = nn.Linear(HIDDEN, HIDDEN)
        self.again.weight = self.tied.weight
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.embed(inputs))
        hidden = hidden + self.down(torch.relu(self.up(hidden)))
        return self.head(torch.tanh(self.again(self.tied(hidden))))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    inputs = torch.randn(BATCH, WIDTH, generator=generator)
    return inputs, torch.randint(0, CLASSES, (BATCH,), generator=generator)


def shard(kind: str, world: int) -> nn.Module:
    """Return the model as one rank holds it."""
    model = net()
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    if kind.startswith("fsdp1"):
        return _fsdp1(model, kind)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    if kind == "fsdp2":
        mesh = init_device_mesh("cpu", (world,))
        for module in (model.up, model.down):
            fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
    elif kind == "hsdp2":
        mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("replicate", "shard"))
        fully_shard(model, mesh=mesh)
    elif kind == "tp":
        parallelize_module(model, init_device_mesh("cpu", (world,)), plan)
    elif kind == "tp+fsdp2":
        mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("dp", "tp"))
        parallelize_module(model, mesh["tp"], plan)
        fully_shard(model, mesh=mesh["dp"])
    elif kind == "tp+ddp":
        mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("dp", "tp"))
        parallelize_module(model, mesh["tp"], plan)
    else:
        raise ValueError(kind)
    return model


def _fsdp1(model: nn.Module, kind: str) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy

    strategies = {
        "fsdp1": ShardingStrategy.FULL_SHARD,
        "fsdp1-flat": ShardingStrategy.FULL_SHARD,
        "fsdp1-grad": ShardingStrategy.SHARD_GRAD_OP,
        "fsdp1-none": ShardingStrategy.NO_SHARD,
        "fsdp1-hybrid": ShardingStrategy.HYBRID_SHARD,
    }
    group: Any = None
    if kind == "fsdp1-hybrid":
        half = dist.get_world_size() // 2
        inner = [dist.new_group(list(range(start, start + half))) for start in (0, half)]
        outer = [dist.new_group([place, place + half]) for place in range(half)]
        group = (inner[dist.get_rank() // half], outer[dist.get_rank() % half])
    return FullyShardedDataParallel(
        model,
        process_group=group,
        sharding_strategy=strategies[kind],
        auto_wrap_policy=ModuleWrapPolicy({nn.LayerNorm}),
        use_orig_params=kind != "fsdp1-flat",
        device_id=torch.device("cpu"),
    )


def full_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the whole weights by torch's own means; collective."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model, writeback=False):
            return {name: values.detach().clone() for name, values in model.named_parameters()}
    whole = {}
    for name, values in model.named_parameters():
        full = values.full_tensor() if hasattr(values, "full_tensor") else values
        whole[name] = full.detach().clone()
    return whole


def train(job: Job, rank: int, world: int, out: Path) -> None:
    """Train as `job` says and write down what was seen."""
    from topowatch_client import attach
    from topowatch_client.weights import Weights

    real = Weights.look
    model = shard(job.kind, world)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    watch = None
    if job.watched:
        spool_dir = "/dev/null/spool" if rank == job.broken_rank else str(out / f"spool-{rank}")
        settings = {"mode": "offline", "spool_dir": spool_dir, "interval": 1, **job.config}
        watch = attach(model, optimizer, probe=batch(-1) if job.probed else None, config=settings)
    losses, weights = [], []
    for step in range(job.steps):
        if step == 5 and rank == job.faltering_rank:
            Weights.look = None  # type: ignore[method-assign,assignment]
        inputs, targets = batch(step)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item().hex())
        if job.keep_weights:
            weights.append(full_weights(model))
        if watch is not None:
            watch.log(loss=loss)
    Weights.look = real  # type: ignore[method-assign]
    if watch is not None:
        watch.finish()
        (out / f"status-{rank}.json").write_text(json.dumps(watch.status))
    (out / f"losses-{rank}.json").write_text(json.dumps(losses))
    if rank == 0:
        torch.save(weights, out / "weights.pt")


def main() -> None:
    rank, world, out = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/store", rank=rank, world_size=world)
    for each in json.loads(sys.argv[4]):
        job = Job(**each)
        (out / job.name).mkdir(exist_ok=True)
        train(job, rank, world, out / job.name)
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
