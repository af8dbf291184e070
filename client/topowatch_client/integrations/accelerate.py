"""Hugging Face Accelerate: `Accelerator(log_with=tracker)`, then `tracker.attach(model, optimizer)` once prepared."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from topowatch_client.integrations.attachment import Attachment, kept_from_training, numbers

try:
    from accelerate.tracking import GeneralTracker
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "topowatch_client.integrations.accelerate needs Accelerate: pip install accelerate"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Unpack

    from topowatch_client import Watch
    from topowatch_client.integrations.attachment import Arguments

_COUNTERS = {"step", "epoch"}  # logged by many loops; no results
_log = logging.getLogger("topowatch")


class TopowatchTracker(GeneralTracker):  # type: ignore[misc] # mypy does not look into frameworks
    """Takes what `Accelerator.log` and `Accelerator.init_trackers(config=…)` hand to trackers to a watched run.

    Values are kept for the optimiser step that ended last, whatever step the loop names; tensors may stay on their
    device. The config of `init_trackers` becomes labels. `Accelerator.end_training` finishes the run with the last
    value of each name; a loop that raises before does not.

    Args:
        arguments: Keyword arguments of `topowatch_client.attach`.

    Raises:
        TypeError: `attach` has no such argument.
    """

    name = "topowatch"
    requires_logging_directory = False
    main_process_only = False  # of a sharded model every rank sends

    def __init__(self, **arguments: Unpack[Arguments]) -> None:
        super().__init__()
        self._attachment = Attachment(arguments)
        self._hyperparameters: Mapping[str, Any] = {}
        self._last: dict[str, Any] = {}
        self._warned = False

    @property
    def tracker(self) -> Watch | None:
        """The handle on the run; None before `attach`."""
        return self._attachment.watch

    @kept_from_training
    def attach(self, model: Any, optimizer: Any = None, *, start_step: int | None = None) -> None:
        """Begin to watch, on every rank: after `Accelerator.prepare`, `init_trackers` and `load_state`.

        Args:
            model: As `prepare` returned it.
            optimizer: The same; several in a list.
            start_step: Optimiser steps done before, for a job that goes on from a checkpoint; None: read from the
                optimiser's state.
        """
        self._last = {}
        self._attachment.begin(model, optimizer, hyperparameters=self._hyperparameters, start_step=start_step)

    @kept_from_training
    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Keep hyperparameters for the labels of the run."""
        self._hyperparameters = dict(values)

    @kept_from_training
    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Log numbers and tensors of one element; the rest is left out."""
        if self.tracker is None and not self._warned:
            self._warned = True
            _log.warning("topowatch: nothing is watched: call tracker.attach(model, optimizer) after prepare()")
        self._last |= numbers(values)
        self._attachment.log(values)

    @kept_from_training
    def finish(self) -> None:
        """Finish the run."""
        self._attachment.finish({name: value for name, value in self._last.items() if name not in _COUNTERS})
