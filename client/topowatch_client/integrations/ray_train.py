"""Ray Train: `with TopowatchRun(model, optimizer, probe=…) as run:` in `train_loop_per_worker`, on every worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from topowatch_client.integrations.attachment import Attachment, kept_from_training, numbers

try:
    import ray.train
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "topowatch_client.integrations.ray_train needs Ray Train: pip install 'ray[train]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from topowatch_client import Watch
    from topowatch_client.integrations.attachment import Arguments


class TopowatchRun:
    """A context manager around the training of one worker, named for the Ray Train experiment.

    `RunConfig(name=…)` names the run, which is the same on all workers and after a restart by `FailureConfig`; which of
    them send is settled between the workers. Leaving the block finishes the run with what was reported last; leaving it
    by an exception does not.

    Args:
        model: As `ray.train.torch.prepare_model` returned it.
        optimizer: Whose steps are counted.
        hyperparameters: Become labels, such as the `config` that the loop was given.
        arguments: Keyword arguments of `topowatch_client.attach`. A job that goes on from a checkpoint with an
            optimiser that keeps no step count passes config={"start_step": n}.

    Raises:
        TypeError: `attach` has no such argument.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any = None,
        *,
        hyperparameters: Mapping[str, Any] | None = None,
        **arguments: Unpack[Arguments],
    ) -> None:
        self._attachment = Attachment(arguments)
        self._reported: dict[str, Any] = {}
        self._begin(model, optimizer, hyperparameters)

    @property
    def watch(self) -> Watch | None:
        """The handle on the run."""
        return self._attachment.watch

    @kept_from_training
    def log(self, **scalars: Any) -> None:
        """Keep numbers or tensors of one element for the optimiser step that just ended, as `Watch.log` does."""
        self._attachment.log(scalars)

    def report(self, metrics: Mapping[str, Any], checkpoint: Any = None, **options: Any) -> None:
        """Call `ray.train.report`, on all workers alike, and keep the metrics for the step that just ended.

        Args:
            metrics: As `ray.train.report` takes them.
            checkpoint: The same.
            options: Its other arguments.
        """
        self._keep(metrics)
        ray.train.report(dict(metrics), checkpoint, **options)

    def __enter__(self) -> Self:
        return self

    @kept_from_training
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._attachment.finish(self._reported)
        else:
            self._attachment.leave(error)

    @kept_from_training
    def _begin(self, model: Any, optimizer: Any, hyperparameters: Mapping[str, Any] | None) -> None:
        name = ray.train.get_context().get_experiment_name()
        self._attachment.begin(model, optimizer, run=name, hyperparameters=hyperparameters)

    @kept_from_training
    def _keep(self, metrics: Mapping[str, Any]) -> None:
        self._reported |= numbers(metrics)
        self._attachment.log(metrics)
