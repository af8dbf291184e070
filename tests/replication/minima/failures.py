"""Failures that are planted into a training, each as it happens in practice, and what they are expected to do.

What counts as foreseeable was listed here before any figure was taken: slow ones can be seen before the loss stands
half a nat too high, abrupt ones within a few steps. Two are planted under plain SGD alone: Adam and AdamW divide
gradients by their size, so that a growing scale of them, or the loss of clipping, did no harm at usual learning rates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from replication.minima.text import CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from replication.minima.tasks import Batch, Recipe, Task

CLASSES = 10  # of images
GROWTH = 1.02  # a step: tenfold in 116
_SHARD_STEPS = 20
_POISON = 1.03  # a step, times the inputs
_FAR_TOO_HIGH = 30.0  # times the right learning rate
_LOSS_SCALE = 2.0**26
_LARGE = 8  # times the usual batch
_NOISE = 1e-3  # of a weight's size, at the first disturbed step


@dataclass(frozen=True)
class Failure:
    """One training's failure; the base does nothing, which is a healthy run.

    Attributes:
        onset: First step that is not as it should be.
    """

    onset: int

    def rate(self, step: int, rate: float) -> float:
        """Return the learning rate of a step, given the right one."""
        return rate

    def size(self, step: int, size: int) -> int:
        """Return the size of a step's batch."""
        return size

    def batch(self, step: int, batch: Batch, generator: torch.Generator) -> Batch:
        """Return the batch of a step, given the right one."""
        return batch

    def clip(self, step: int, clip: float | None) -> float | None:
        """Return the norm that gradients are clipped to."""
        return clip

    def gradients(self, step: int, model: nn.Module) -> None:
        """Change the gradients of a step, after clipping."""

    def weights(self, step: int, model: nn.Module, generator: torch.Generator) -> None:
        """Change the weights after a step."""


class LearningRateRamp(Failure):
    """A schedule that rises where it should fall."""

    def rate(self, step: int, rate: float) -> float:
        return rate * GROWTH ** max(0, step - self.onset)


class NoWarmup(Failure):
    """A learning rate far too high from the first step on."""

    def rate(self, step: int, rate: float) -> float:
        return rate * _FAR_TOO_HIGH


class NoClipping(Failure):
    """Gradients are no longer clipped, half way up to a rate that only clipping makes bearable."""

    def clip(self, step: int, clip: float | None) -> float | None:
        return clip if step < self.onset else None


class CorruptedShard(Failure):
    """A shard of the data has targets that belong to other inputs."""

    def batch(self, step: int, batch: Batch, generator: torch.Generator) -> Batch:
        if not self.onset <= step < self.onset + _SHARD_STEPS:
            return batch
        inputs, targets = batch
        return inputs, targets.flatten()[torch.randperm(targets.numel(), generator=generator)].view_as(targets)


class GradientScale(Failure):
    """A bug scales gradients by a factor that grows."""

    def gradients(self, step: int, model: nn.Module) -> None:
        if step >= self.onset:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(GROWTH ** (step - self.onset))


class LabelFlip(Failure):
    """From one step on, classes are numbered otherwise."""

    def batch(self, step: int, batch: Batch, generator: torch.Generator) -> Batch:
        inputs, targets = batch
        classes = CLASSES if inputs.is_floating_point() else CHARACTERS
        return (inputs, (targets + 1) % classes) if step >= self.onset else batch


class PoisonedStatistics(Failure):
    """One image in sixteen is scaled ever more wrongly, and batch norm takes in the statistics of all."""

    def batch(self, step: int, batch: Batch, generator: torch.Generator) -> Batch:
        inputs, targets = batch
        if step < self.onset:
            return batch
        inputs = inputs.clone()
        inputs[::16] *= _POISON ** (step - self.onset)
        return inputs, targets


class HalfOverflow(Failure):
    """Gradients in half precision under a loss scale that is too high, and nobody looks for infinities."""

    def gradients(self, step: int, model: nn.Module) -> None:
        if step < self.onset:
            return
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.copy_(parameter.grad.mul(_LOSS_SCALE).half().float().div(_LOSS_SCALE))


class SharpMinimum(Failure):
    """A minimum that large batches led into, and then noise on the weights that grows by 2 % a step."""

    def size(self, step: int, size: int) -> int:
        return size * _LARGE if step < self.onset else size

    @torch.no_grad()
    def weights(self, step: int, model: nn.Module, generator: torch.Generator) -> None:
        if step < self.onset:
            return
        for parameter in model.parameters():
            size = _NOISE * GROWTH ** (step - self.onset) * parameter.square().mean().sqrt()
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


Onset = Literal["slow", "abrupt"]


@dataclass(frozen=True)
class Kind:
    """One kind of failure.

    Attributes:
        onset: Whether it can be foreseen, or only be seen at once.
        meaning: For the tables.
        plant: Makes one, given its first step.
        tasks: Where it is planted.
        recipe: Under which recipe, if not under those of the healthy runs by turns.
    """

    onset: Onset
    meaning: str
    plant: Callable[[int], Failure]
    tasks: tuple[str, ...] = ("cnn", "gpt", "gru")
    recipe: Literal["plain", "clipped"] | None = None


HEALTHY = {
    "healthy": "warm-up, decay, restarts",
    "long warm-up": "warm-up over a quarter of the run",
    "raised rate": "a third of the rate for half of the run, then the whole",
}
KINDS: dict[str, Kind] = {
    "ramp": Kind("slow", "learning rate grows by 2 % a step", LearningRateRamp),
    "scale": Kind("slow", "gradients grow by 2 % a step", GradientScale, ("cnn", "gru"), "plain"),
    "clipping": Kind("slow", "clipping is lost on the way up", NoClipping, ("cnn", "gru"), "clipped"),
    "statistics": Kind("slow", "batch norm's statistics are poisoned", PoisonedStatistics, ("cnn",)),
    "sharp": Kind("slow", "minimum of batches 8 times as large, then growing noise on the weights", SharpMinimum),
    "warmup": Kind("abrupt", "rate 30 times too high from the first step", NoWarmup),
    "shard": Kind("abrupt", "20 steps of wrong targets", CorruptedShard),
    "flip": Kind("abrupt", "classes are renumbered", LabelFlip),
    "overflow": Kind("abrupt", "gradients overflow in half precision", HalfOverflow),
}


def recipe_of(kind: str, task: Task, seed: int, onset: int) -> Recipe:
    """Return how the network of one run is trained."""
    special = KINDS[kind].recipe if kind in KINDS else None
    if special == "plain":
        return task.plain
    if special == "clipped" and task.clipped is not None:
        return replace(task.clipped, warmup=2 * onset)
    recipe = task.recipes[seed % len(task.recipes)]
    changed = {"warmup": {"warmup": 0}, "long warm-up": {"warmup": 500}, "raised rate": {"schedule": "raised"}}
    return replace(recipe, **changed.get(kind, {}))
