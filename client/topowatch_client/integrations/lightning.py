"""Lightning: `Trainer(callbacks=[TopowatchCallback(group=…, probe=…)])`, for `lightning` and `pytorch_lightning`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from topowatch_client.integrations.attachment import Attachment, kept_from_training

try:
    # Two names for the same library, whose classes do not know one another: the job's own is the one it has imported.
    if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
        from pytorch_lightning import Callback
    else:
        try:
            from lightning.pytorch import Callback
        except ModuleNotFoundError:
            from pytorch_lightning import Callback
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "topowatch_client.integrations.lightning needs Lightning: pip install lightning"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Unpack

    from topowatch_client import Watch
    from topowatch_client.integrations.attachment import Arguments


class TopowatchCallback(Callback):  # type: ignore[misc] # mypy does not look into frameworks
    """Watches every `Trainer.fit`, save those of `fast_dev_run`.

    The training loss and whatever `self.log` sends to the loggers are kept for the optimiser step they belong to.
    Hyperparameters saved in the module and the data module become labels. A fit that ends by itself finishes the run
    with the last validation metrics (with all metrics where there was no validation); one that raises does not.

    Args:
        arguments: Keyword arguments of `topowatch_client.attach`. Give `run` a name of your own where a job may go on
            from a checkpoint in a new process, so that it goes on with the same run.

    Raises:
        TypeError: `attach` has no such argument.
    """

    def __init__(self, **arguments: Unpack[Arguments]) -> None:
        self._attachment = Attachment(arguments)
        self._seen: dict[str, Any] = {}  # by name, the value that was logged last
        self._validated: dict[str, Any] = {}
        self._loss: Any = None  # of the micro-batches of one optimiser step
        self._steps = 0

    @property
    def watch(self) -> Watch | None:
        """The handle on the run; None before training has started."""
        return self._attachment.watch

    @kept_from_training
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach: checkpoints are loaded by now."""
        if trainer.fast_dev_run:
            return
        self._seen, self._validated, self._loss, self._steps = (
            dict(trainer.logged_metrics),
            {},
            None,
            trainer.global_step,
        )
        # With several optimisers global_step counts the steps of each, and attach asks the optimisers where they are.
        only = len(trainer.optimizers) == 1
        self._attachment.begin(
            trainer.model,
            trainer.optimizers,
            hyperparameters={**getattr(trainer.datamodule, "hparams", {}), **pl_module.hparams},
            start_step=trainer.global_step if only else None,
        )

    @kept_from_training
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the loss and the metrics of a step, if one has ended with this batch."""
        loss = outputs.get("loss") if hasattr(outputs, "get") else outputs
        if self._loss is not None and loss is not None and pl_module.automatic_optimization:
            loss = self._loss + loss  # Lightning has divided the loss by the number of batches a step
        self._loss = loss
        steps = trainer.global_step
        if steps != self._steps:
            self._steps, self._loss = steps, None
            self._attachment.log({"loss": loss, **self._new(trainer)})

    @kept_from_training
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Pass over what training logged, so that what is new at the end of the validation is the validation's."""
        self._new(trainer)

    @kept_from_training
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the metrics of a validation."""
        if not trainer.sanity_checking:
            found = self._new(trainer)
            self._validated |= found
            self._attachment.log(found)

    @kept_from_training
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Log the metrics of the epoch before, which Lightning has put together by now."""
        self._attachment.log(self._new(trainer))

    @kept_from_training
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Finish the run."""
        self._attachment.log(self._new(trainer))
        self._attachment.finish(self._validated or self._seen)

    @kept_from_training
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Let go of a run whose training was broken off."""
        self._attachment.leave(exception)

    def _new(self, trainer: Any) -> Mapping[str, Any]:
        """Return what was logged since the last look; every rank looks alike, for some metrics are collective."""
        found = {name: value for name, value in trainer.logged_metrics.items() if self._seen.get(name) is not value}
        self._seen |= found
        return found
