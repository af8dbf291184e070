"""The last training batch of a model that returns its own loss, for jobs that were given no probe set."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from topowatch_client.activations import compiles
from topowatch_client.displaced import check_size
from topowatch_client.guard import from_signal_handler
from topowatch_client.untouched import Untouched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_IMMUTABLE = (bool, int, float, complex, str, bytes, range, slice, enum.Enum, torch.dtype, torch.device)
NO_LOSS = "the model returns no loss, and no probe set with targets was given: pass probe=(inputs, targets) to attach"


class LastBatch:
    """Keeps what the model was last called with in a step of training, if it answered with its loss.

    Attributes:
        proven: Whether the model has ever answered with its loss.
        problem: Why there is no loss to be had, in words; None while it is not known, or there is one.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.proven = False
        self.problem: str | None = None
        self._model = model
        self._untouched = Untouched(model)
        self._handle: Any = None
        self._call: tuple[Any, Any] | None = None

    @property
    def armed(self) -> bool:
        """Whether calls are looked at."""
        return self._handle is not None

    @property
    def has_loss(self) -> bool:
        """Whether a batch is there."""
        return self._call is not None

    def arm(self) -> None:
        """Look at the calls of the next step; compiled models are left alone, as they would be compiled anew."""
        self.forget()
        self.problem = "torch.compile is in use, which leaves out hooks" if compiles() else None
        if self.problem is None:
            self._handle = self._model.register_forward_hook(_Hook(self), with_kwargs=True)

    def disarm(self) -> None:
        """Look no more, and say what was seen."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
            if self._call is None:
                self.problem = self.problem or NO_LOSS

    def forget(self) -> None:
        """Look no more, and keep no batch."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = self._call = None

    def release(self) -> None:
        """Keep nothing of the model."""
        self.forget()
        self._model = torch.nn.Module()
        self._untouched = Untouched(self._model)

    def look(self, arguments: Any, named: Any, result: Any) -> None:
        """Take in a call, from its hook; nothing gets out that is not the job's own."""
        try:
            trains = self._model.training and torch.is_grad_enabled()
            if trains and own_loss(result) is not None:
                check_size("the last batch takes", _tensors((arguments, named)))
                self._call = _copied(tuple(arguments)), _copied(dict(named))
                self.proven = True
        except Exception as error:  # it runs within the job's forward pass, which must not notice
            if from_signal_handler(error):
                raise
            self.problem = f"the last batch cannot be kept: {error!r}"

    @contextlib.contextmanager
    def losses(self) -> Iterator[Callable[[], torch.Tensor]]:
        """Yield what passes the batch and returns the model's loss; the model is as it was once the block ends."""
        call = self._call
        if call is None:
            raise ValueError(self.problem or NO_LOSS)
        with self._untouched.evaluating():
            # A copy for each pass: a model may write into what it is given.
            yield lambda: _loss_of(self._model(*_copied(call[0]), **_copied(call[1])))


def _tensors(value: Any) -> list[torch.Tensor]:
    """Return all tensors in nested arguments."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [tensor for each in value for tensor in _tensors(each)]
    return [value] if isinstance(value, torch.Tensor) else []


def _copied(value: Any) -> Any:
    """Return a copy that shares nothing a pass could write into; raise TypeError where there may be such a thing."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        each = [_copied(one) for one in value]
        return each if isinstance(value, list) else type(value)(*each) if hasattr(value, "_fields") else tuple(each)
    if isinstance(value, np.ndarray):
        return value.copy()
    if value is None or isinstance(value, _IMMUTABLE):
        return value
    raise TypeError(f"a pass may write into an argument of {type(value)}: pass probe=(inputs, targets) to attach")


def own_loss(result: Any) -> torch.Tensor | None:
    """Return the loss that a model has put into what it returns: as `loss`, as the first of several, or alone.

    Without that name, what has dimensions is no loss: the output for one example may be one number as well.
    """
    named = True
    if isinstance(result, Mapping):
        result = result.get("loss")
    elif hasattr(result, "loss"):
        result = result.loss
    else:
        named = False
        result = result[0] if isinstance(result, (tuple, list)) and result else result
    if not isinstance(result, torch.Tensor) or not result.is_floating_point():
        return None
    return result if (result.numel() == 1 if named else result.dim() == 0) else None


def _loss_of(result: Any) -> torch.Tensor:
    loss = own_loss(result)
    if loss is None:
        raise ValueError("the model returned its loss in training and does not in evaluation")
    return loss.detach().float().reshape(())


class _Hook:
    """A forward hook. In a copy of the model, or one that is saved and loaded, nothing is left of it but its place."""

    def __init__(self, owner: LastBatch | None = None) -> None:
        self._owner = owner

    def __call__(self, _module: torch.nn.Module, arguments: Any, named: Any, result: Any) -> None:
        if self._owner is not None and not torch.compiler.is_compiling():
            self._owner.look(arguments, named, result)

    def __reduce__(self) -> tuple[type[_Hook], tuple[()]]:
        return _Hook, ()

    def __copy__(self) -> _Hook:
        return _Hook()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hook:
        return _Hook()
