"""Tiny trainings with a real Lightning Trainer; a module of its own, as importing Lightning takes seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import nn

if TYPE_CHECKING:
    from pathlib import Path

BATCHES = 5  # an epoch


class Classifier(pl.LightningModule):
    """Dropout and batch norm, so that whatever draws a random number or passes data through it leaves a trace."""

    def __init__(self, lr: float, sizes: dict[str, int], broken_at: int | None = None) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["broken_at"])
        self.layers = nn.Sequential(
            nn.Linear(6, sizes["hidden"]), nn.BatchNorm1d(sizes["hidden"]), nn.Dropout(0.3), nn.Linear(8, 3)
        )
        self.broken_at = broken_at
        self.losses: list[float] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layers(inputs)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        if self.global_step == self.broken_at:
            raise RuntimeError("the disk with the data is gone")
        inputs, targets = batch
        loss = nn.functional.cross_entropy(self(inputs), targets)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        inputs, targets = batch
        self.log("val_accuracy", (self(inputs).argmax(1) == targets).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])


class Adversaries(Classifier):
    """Two optimisers that the module steps by itself."""

    def __init__(self) -> None:
        super().__init__(lr=0.1, sizes={"hidden": 8})
        self.automatic_optimization = False

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        for optimizer in self.optimizers():
            loss = self(batch[0]).square().mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        self.log("loss", loss)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.layers[0], self.layers[3])]


def loader(*, shuffle: bool) -> Any:
    random = torch.Generator().manual_seed(1)
    inputs, targets = torch.randn(BATCHES * 4, 6, generator=random), torch.randint(3, (BATCHES * 4,), generator=random)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, targets), batch_size=4, shuffle=shuffle)


def fit(
    root: Path,
    *callbacks: Any,
    module: type[Classifier] = Classifier,
    epochs: int = 2,
    broken_at: int | None = None,
    checkpoint: Path | None = None,
    **more: Any,
) -> Any:
    """Train for `epochs` of 5 batches with a validation after each; return the trainer."""
    pl.seed_everything(0, verbose=False)
    model = module() if module is Adversaries else module(lr=0.1, sizes={"hidden": 8}, broken_at=broken_at)
    trainer = pl.Trainer(
        default_root_dir=root, accelerator="cpu", max_epochs=epochs, callbacks=list(callbacks), logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, **more,
    )  # fmt: skip
    trainer.fit(model, loader(shuffle=True), loader(shuffle=False), ckpt_path=checkpoint)
    return trainer
