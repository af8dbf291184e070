"""Hugging Face Transformers: `Trainer(…, callbacks=[TopowatchCallback(group=…, probe=…)])`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from topowatch_client.integrations.attachment import Attachment, kept_from_training

try:
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "topowatch_client.integrations.transformers needs Transformers: pip install transformers accelerate"
    ) from error

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from topowatch_client import Watch
    from topowatch_client.integrations.attachment import Arguments

_HYPERPARAMETERS = (
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "weight_decay",
    "warmup_steps",
    "lr_scheduler_type",
    "optim",
    "max_grad_norm",
    "label_smoothing_factor",
    "seed",
)
_OF_THE_MACHINE = ("_runtime", "_per_second", "_flos")  # how numbers end that say nothing about the model


class TopowatchCallback(TrainerCallback):  # type: ignore[misc] # mypy does not look into frameworks
    """Watches every `Trainer.train`.

    What the trainer logs, at every `logging_steps` and after every evaluation, is kept for the optimiser step that
    ended last. The usual `TrainingArguments` become labels, and `run_name` names the run. A training that ends by
    itself finishes the run with its last evaluation (with `train_loss` where there was none); one that raises does not.

    Args:
        arguments: Keyword arguments of `topowatch_client.attach`; `run` wins over `run_name`.

    Raises:
        TypeError: `attach` has no such argument.
    """

    def __init__(self, **arguments: Unpack[Arguments]) -> None:
        self._attachment = Attachment(arguments)
        self._logged: dict[str, float] = {}  # by name, the last value

    @property
    def watch(self) -> Watch | None:
        """The handle on the run; None before training has started."""
        return self._attachment.watch

    @kept_from_training
    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Attach: checkpoints are loaded by now."""
        self._logged = {}
        hyperparameters = {name: getattr(args, name, None) for name in _HYPERPARAMETERS}
        self._attachment.begin(
            given["model"],
            given["optimizer"],
            run=_run_name(args, state),
            hyperparameters={
                **{name: getattr(value, "value", value) for name, value in hyperparameters.items()},
                **(state.trial_params or {}),
            },
            start_step=state.global_step,
        )

    @kept_from_training
    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
        """Log what the trainer logs."""
        found = {
            name: value
            for name, value in (logs or {}).items()
            if name != "epoch" and not name.endswith(_OF_THE_MACHINE)
        }
        self._logged |= found
        self._attachment.log(found)

    @kept_from_training
    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Finish the run."""
        evaluated = {name: value for name, value in self._logged.items() if name.startswith("eval_")}
        self._attachment.finish(
            evaluated or {name: value for name, value in self._logged.items() if name == "train_loss"}
        )


def _run_name(args: Any, state: Any) -> str | None:
    """Return the trial's name in a search, else the user's name for the run; older versions default to output_dir."""
    if state.is_hyper_param_search:
        return state.trial_name  # type: ignore[no-any-return]
    return args.run_name if args.run_name != args.output_dir else None
