"""Logged numbers of every step, kept without making an accelerator wait, until the next sample takes them along."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Series(NamedTuple):
    """One scalar at strictly increasing steps."""

    name: str
    steps: list[int]
    values: list[float]


class Waiting:
    """Scalars taken out of the buffer, some of which may still lie on an accelerator."""

    def __init__(self, values: dict[str, dict[int, float | torch.Tensor]]) -> None:
        self._values = values
        self.on_device = [
            value for steps in values.values() for value in steps.values() if isinstance(value, torch.Tensor)
        ]

    def series(self, fetched: Sequence[float]) -> list[Series]:
        """Return everything as plain numbers; `fetched` are the values of `on_device`, in that order."""
        arrived = iter(fetched)
        result = []
        for name, values in self._values.items():
            pairs = [
                (step, next(arrived) if isinstance(value, torch.Tensor) else value) for step, value in values.items()
            ]
            pairs.sort()
            result.append(Series(name, [step for step, _ in pairs], [value for _, value in pairs]))
        return result


class ScalarBuffer:
    """Collects (step, value) by name; a second value at the same step replaces the first."""

    def __init__(self) -> None:
        self._values: dict[str, dict[int, float | torch.Tensor]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, step: int, scalars: Mapping[str, object]) -> None:
        """Keep values of `step`: numbers, or tensors of one element.

        A tensor on the CPU is read at once, as that costs nothing; one on an accelerator is copied there and read
        later, because the loop may go on to change it in place.

        Raises:
            TypeError: A value is neither a number nor a tensor of one element.
        """
        for name, value in scalars.items():
            kept: float | torch.Tensor
            if isinstance(value, torch.Tensor):
                if value.numel() != 1:
                    raise TypeError(
                        f"log({name}=…) takes a number or a tensor of one element, not {tuple(value.shape)}"
                    )
                single = value.detach().reshape(())
                kept = float(single) if single.device.type == "cpu" else single.to(torch.float32, copy=True)
            else:
                kept = float(value)  # type: ignore[arg-type] # whatever has __float__ is welcome, the rest raises
            self._values.setdefault(name, {})[step] = kept
            self._count += 1

    def take(self) -> Waiting:
        """Hand out everything and forget it."""
        values, self._values, self._count = self._values, {}, 0
        return Waiting(values)
