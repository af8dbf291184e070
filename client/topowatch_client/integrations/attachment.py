"""What the integrations share: one run that a framework's events drive, and the border that errors stay behind."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from topowatch_client import attach
from topowatch_client.guard import from_signal_handler

if TYPE_CHECKING:
    from collections.abc import Callable

    from topowatch_client import Watch

_log = logging.getLogger("topowatch")


class Arguments(TypedDict, total=False):
    """Keyword arguments of `topowatch_client.attach`, which every integration takes and hands on."""

    run: str | None
    group: str | None
    labels: Mapping[str, str] | None
    endpoint: str | None
    probe: tuple[Any, Any] | None
    loss: Callable[[Any, Any], Any] | None
    forward: Callable[[Any, Any], Any] | None
    output: str
    layer: str | None
    config: Any


def kept_from_training(method: Callable[..., None]) -> Callable[..., None]:
    """Return a method that raises nothing: what goes wrong in it is logged, once."""
    said = False

    @functools.wraps(method)
    def guarded(*args: Any, **kwargs: Any) -> None:
        nonlocal said
        try:
            method(*args, **kwargs)
        except Exception as error:
            if from_signal_handler(error):
                raise  # training's own
            if not said:
                _log.warning("topowatch: an error was kept from training", exc_info=True)
            said = True

    return guarded


class Attachment:
    """A run from its first event to its last; before the first and after the last nothing is watched.

    Args:
        arguments: Keyword arguments of `topowatch_client.attach`.

    Raises:
        TypeError: `attach` has no such argument.
    """

    def __init__(self, arguments: Arguments) -> None:
        inspect.signature(attach).bind_partial(None, None, **arguments)
        self.watch: Watch | None = None
        self._arguments = arguments

    def begin(
        self,
        model: Any,
        optimizer: Any,
        *,
        run: str | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        start_step: int | None = None,
    ) -> None:
        """Attach to a training that is about to take its first step.

        Args:
            model: As `attach` takes it.
            optimizer: As `attach` takes it.
            run: Name of the run where the user gave none.
            hyperparameters: Become labels where the user gave none of that name; nested ones are named a.b.
            start_step: Optimiser steps that were done before, unless the user's config says it; None: not known.
        """
        self.leave(InterruptedError("another training begins"))
        arguments: dict[str, Any] = dict(self._arguments)
        arguments["run"] = arguments.get("run") or run
        arguments["config"] = _starting_at(start_step, arguments.get("config"))
        arguments["labels"] = {**_texts(hyperparameters or {}), **(arguments.get("labels") or {})}
        self.watch = attach(model, optimizer, **arguments)

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Keep numbers and tensors of one element for the step that just ended; nothing waits for a device."""
        if self.watch is not None:
            self.watch.log(**numbers(metrics))

    def finish(self, results: Mapping[str, Any]) -> None:
        """Say that the run ended by itself, with these results."""
        if self.watch is not None:
            self.watch.finish(**numbers(results))

    def leave(self, error: BaseException) -> None:
        """Let go of a run that did not end by itself: what it saw is sent, and nothing says that it ended."""
        if self.watch is not None:
            self.watch.__exit__(type(error), error, error.__traceback__)


def numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are one number, as they are; a tensor stays on its device."""
    return {str(name): value for name, value in values.items() if hasattr(value, "__float__") and _count(value) == 1}


def _count(value: Any) -> int:
    numel = getattr(value, "numel", None)
    count: int = numel() if callable(numel) else getattr(value, "size", 1)
    return count


def _texts(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return the plain values of nested hyperparameters as text."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _texts(value, f"{prefix}{name}.")
        elif isinstance(value, (str, int, float)) and not str(name).startswith("_"):
            found[f"{prefix}{name}"] = str(value)
    return found


def _starting_at(step: int | None, config: Any) -> Any:
    """Return the user's config, with the step where training goes on unless it names one."""
    if step is None:
        return config
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return dataclasses.replace(config, start_step=step) if config.start_step is None else config  # type: ignore[attr-defined]
    return {"start_step": step, **(config or {})}
