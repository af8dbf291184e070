"""Logged numbers of every step, kept without making an accelerator wait, until the next sample takes them along."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import torch

from topowatch_client import names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


_log = logging.getLogger("topowatch")
_MAX_NAMES = 500  # distinct ones until the next sample: the daemon takes 1000 series a sample, ours included


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
    """Collects (step, value) by name; a second value at the same step replaces the first.

    `warning` says, once something was, which name was changed or left out first.
    """

    def __init__(self) -> None:
        self.warning: str | None = None
        self._values: dict[str, dict[int, float | torch.Tensor]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, step: int, scalars: Mapping[str, object]) -> None:
        """Keep values of `step`: numbers, or tensors of one element.

        A tensor on the CPU is read at once, as that costs nothing; one on an accelerator is copied there and read
        later, because the loop may go on to change it in place. Names that the daemon would refuse are made acceptable,
        and of more than it takes the first are kept: either costs a warning, not the sample.

        Raises:
            TypeError: A value is neither a real number nor a real tensor of one element.
        """
        for name, value in scalars.items():
            cleaned = names.of_value(name)
            if cleaned != name:
                self._warn(f"the scalar {names.shown(name)} is called {names.shown(cleaned)}")
            if len(self._values) >= _MAX_NAMES and cleaned not in self._values:
                self._warn(f"over {_MAX_NAMES} names of scalars: {names.shown(cleaned)} and others are left out")
            else:
                self.put(step, cleaned, value)

    def put(self, step: int, name: str, value: object) -> None:
        """Keep one value under an acceptable name, however many there are. Raises TypeError as `add` does."""
        kept: float | torch.Tensor
        if isinstance(value, torch.Tensor):
            value = _plain(name, value)
            if value.numel() != 1:
                raise TypeError(f"log({name}=…) takes a number or a tensor of one element, not {tuple(value.shape)}")
            if value.is_complex():
                raise TypeError(f"log({name}=…) takes real numbers, not {value.dtype}: log its .real or .abs()")
            single = value.detach().reshape(())
            kept = float(single) if single.device.type == "cpu" else single.to(torch.float32, copy=True)
        elif isinstance(value, complex):
            raise TypeError(f"log({name}=…) takes real numbers, not {value!r}: log its real part or abs()")
        else:
            kept = float(value)  # type: ignore[arg-type] # whatever has __float__ is welcome, the rest raises
        self._values.setdefault(name, {})[step] = kept
        self._count += 1

    def take(self) -> Waiting:
        """Hand out everything and forget it."""
        values, self._values, self._count = self._values, {}, 0
        return Waiting(values)

    def _warn(self, text: str) -> None:
        if self.warning is None:
            self.warning = text
            _log.warning("topowatch: %s", text)


def _plain(name: str, value: torch.Tensor) -> torch.Tensor:
    """Return the local number of a DTensor that every rank has whole; any other would take a collective."""
    placements = getattr(value, "placements", None)
    if placements is None:
        return value
    if not all(placement.is_replicate() for placement in placements):
        raise TypeError(f"log({name}=…) got a DTensor that is spread over ranks: log its .full_tensor()")
    local: torch.Tensor = value._local_tensor  # type: ignore[attr-defined] # a DTensor's
    return local
