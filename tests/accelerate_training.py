"""A tiny training loop with a real Accelerator; a module of its own, as importing Accelerate takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

if TYPE_CHECKING:
    from pathlib import Path


def fit(
    *trackers: Any, epochs: int = 2, broken_at: int | None = None, checkpoint: Path | None = None, done: int = 0
) -> tuple[list[torch.Tensor], nn.Module]:
    """Train for `epochs` of 5 batches, two of them a step; return (losses, model).

    A checkpoint is gone on from where it exists, `done` steps having been done, and else made at the end.
    """
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, log_with=list(trackers) or None)
    set_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
    data = torch.utils.data.TensorDataset(torch.randn(20, 6), torch.randint(3, (20,)))
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1), loader)
    accelerator.init_trackers("a project", config={"lr": 0.1, "batch": 4})
    if checkpoint is not None and checkpoint.exists():
        accelerator.load_state(str(checkpoint))
    for tracker in trackers:
        tracker.attach(model, optimizer, start_step=done)
    losses = []
    for epoch in range(epochs):
        for inputs, targets in loader:
            if len(losses) == broken_at:
                raise RuntimeError("the disk with the data is gone")
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(inputs), targets)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.detach())
            accelerator.log({"loss": loss, "epoch": epoch, "note": "no number"}, step=1000 + len(losses))
    accelerator.log({"accuracy": 0.5})
    if checkpoint is not None:
        accelerator.save_state(str(checkpoint))
    accelerator.end_training()
    return losses, model
