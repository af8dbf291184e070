"""The sweeps: which configurations are trained. They are drawn from a seed and were frozen before any figure was taken.

The sweep `trial` was looked at while the forecaster was made, and no figure is of it.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np

from replication.forecasts.data import DATA_SETS
from replication.forecasts.networks import ARCHITECTURES, widths_of

SHIFTS = ("rotated", "noisy")  # of the probes and the test set, while the training data are as they were
SHIFTED_RUNS = 16  # of each cell of images, the first ones

_RATES = {"sgd": (3e-3, 1.0), "adam": (1e-4, 3e-2), "adamw": (1e-4, 3e-2)}  # drawn evenly in logarithm
_DECAYS = {"sgd": (0.0, 1e-4, 1e-3, 1e-2), "adam": (0.0, 1e-5, 1e-4, 1e-3), "adamw": (0.0, 0.01, 0.1, 0.3)}
_BATCHES = {"text": (4, 8, 16)}  # windows
_IMAGE_BATCHES = (8, 16, 32, 64)
_NOISES = (0.0, 0.0, 0.0, 0.0, 0.1, 0.2, 0.4)


@dataclass(frozen=True)
class Cell:
    """An architecture on a data set."""

    architecture: str
    data: str

    @property
    def name(self) -> str:
        """Return the name of its group, in which the probes have no labels and no validation is logged."""
        return f"{self.architecture}-{self.data}"

    def shifted(self, shift: str) -> str:
        """Return the name of the group of some of these runs with shifted probes."""
        return f"{self.name}-{shift}"

    @property
    def validated(self) -> str:
        """Return the name of the group of the same runs with labelled probes and a validation metric."""
        return f"{self.name}-validated"


@dataclass(frozen=True)
class Configuration:
    """All that decides how a run goes; no two runs of a sweep have the same.

    Attributes:
        width: of the network.
        noise: share of the training targets that are replaced by others.
        seed: of the weights, the batches and the noise.
    """

    cell: Cell
    number: int
    steps: int
    optimiser: str
    rate: float
    decay: float
    batch: int
    width: int
    noise: float
    seed: int

    @property
    def run(self) -> str:
        """Return its name."""
        return f"run-{self.number:03d}"

    @property
    def shifts(self) -> tuple[str, ...]:
        """Return the shifts that it is looked at with, too."""
        return SHIFTS if self.cell.data != "text" and self.number < SHIFTED_RUNS else ()

    @property
    def groups(self) -> tuple[str, ...]:
        """Return the groups that it is a run of, once for each way to look at it."""
        return self.cell.name, self.cell.validated, *(self.cell.shifted(shift) for shift in self.shifts)

    @property
    def labels(self) -> dict[str, str]:
        """Return what tells it from the others."""
        return {
            "optimiser": self.optimiser,
            "lr": f"{self.rate:.3g}",
            "weight_decay": f"{self.decay:g}",
            "batch": str(self.batch),
            "width": str(self.width),
            "label_noise": f"{self.noise:g}",
            "total_steps": str(self.steps),
        }


@dataclass(frozen=True)
class Sweep:
    """Configurations of several cells, `runs` of each."""

    name: str
    cells: tuple[Cell, ...]
    runs: int
    steps: int

    def configurations(self) -> list[Configuration]:
        """Return all, a run of each cell after the other."""
        return [self._draw(cell, number) for number in range(self.runs) for cell in self.cells]

    def _draw(self, cell: Cell, number: int) -> Configuration:
        seed = zlib.crc32(f"{self.name} {cell.name} {number}".encode())
        rng = np.random.default_rng(seed)
        optimiser = str(rng.choice(list(_RATES)))
        low, high = _RATES[optimiser]
        return Configuration(
            cell=cell,
            number=number,
            steps=self.steps,
            optimiser=optimiser,
            rate=math.exp(rng.uniform(math.log(low), math.log(high))),
            decay=float(rng.choice(_DECAYS[optimiser])),
            batch=int(rng.choice(_BATCHES.get(cell.data, _IMAGE_BATCHES))),
            width=int(rng.choice(widths_of(cell.architecture, cell.data))),
            noise=float(rng.choice(_NOISES)),
            seed=seed,
        )


_DIAGONAL = (Cell("cnn", "mnist"), Cell("transformer", "text"), Cell("rnn", "fashion"))
SWEEPS = {
    sweep.name: sweep
    for sweep in (
        Sweep("full", tuple(Cell(architecture, data) for data in DATA_SETS for architecture in ARCHITECTURES), 60, 480),
        Sweep("small", _DIAGONAL, 24, 320),
        Sweep("trial", _DIAGONAL, 48, 480),
    )
}
