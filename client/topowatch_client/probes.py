"""One forward pass on a fixed probe set: what the model computes now, as a point that other runs can be compared with.

The pass leaves the model as it was (see untouched.py). On a sharded model it is collective: every rank makes the same
calls of the model, whose number follows from shapes alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from topowatch_client import probe_head, probe_outputs, probe_plan, probe_set
from topowatch_client.activations import Activations
from topowatch_client.guard import from_signal_handler
from topowatch_client.messages import ProbeFacts
from topowatch_client.probe_features import Features, find_layer
from topowatch_client.probe_outputs import Losses, Tally, rows_of, tensor_of
from topowatch_client.probe_plan import plan, spread
from topowatch_client.probe_result import Found, Reading
from topowatch_client.probe_set import OUTPUTS, ProbeError, ProbeSettings
from topowatch_client.sketch import to_device
from topowatch_client.untouched import Untouched, is_collective

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from topowatch_client.probe_plan import Plan
    from topowatch_client.sketch import FoldSketch

__all__ = ["Probe", "ProbeError", "ProbeSettings"]


class _Seen(NamedTuple):
    """What one pass has gathered so far."""

    tally: Tally
    losses: Losses
    features: Features | None


class Probe:
    """A fixed probe set and what is needed to pass it through a model.

    At most `positions` outputs are looked at: of one example each, or of sequences some 16 positions each, evenly
    spaced among those whose targets count. A call of the model makes 2^22 numbers at most; where the logits of one
    sequence are more, its head is applied at the chosen positions alone, if a trial shows that this comes to the same.

    Attributes:
        facts: For the run's descriptor; known from the first pass on.
        warning: What the passes miss, in words, or None.

    Raises:
        ProbeError: Inputs, targets, output kind or layer cannot be used.
    """

    def __init__(self, model: nn.Module, settings: ProbeSettings, sketch: FoldSketch) -> None:
        if settings.output not in OUTPUTS:
            raise ProbeError(f"output must be one of {', '.join(OUTPUTS)}, not {settings.output!r}")
        self.facts: ProbeFacts | None = None
        self.warning: str | None = None
        self.layer, self._module = find_layer(model, settings.layer)
        self._settings = settings
        self._sketch = sketch
        self._model = model
        examples = probe_set.count(settings.inputs)
        probe_set.check_targets(settings.targets, examples)
        able = np.flatnonzero(probe_set.counted(settings.targets, examples).any(axis=1))
        chosen = able[spread(len(able), settings.positions)]
        self._inputs = probe_set.rows(settings.inputs, chosen)
        self._targets = None if settings.targets is None else probe_set.rows(settings.targets, chosen)
        self._plan: Plan | None = None  # what follows is known from the trial on
        self._usual_loss: Callable[..., torch.Tensor] | None = None
        self._usual_targets: torch.Tensor | None = None
        self._head: nn.Linear | None = None
        self._head_tried = False
        self._digest = b""
        self._signs: dict[int, torch.Tensor] = {}
        self._activations = Activations(model)
        self._untouched = Untouched(model)

    @property
    def terms(self) -> str:
        """What a pass depends on besides the model, as a digest: equal on ranks that make the same calls."""
        settings, everything = self._settings, (self._inputs, self._targets)
        digests = [probe_set.digest(each, np.zeros(0, np.int64)).hex() for each in everything if each is not None]
        return f"{settings.output} {settings.positions} {settings.loss is None} {' '.join(digests)}"

    @property
    def coverage(self) -> float:
        """Share of the watched modules whose activations the last pass saw."""
        return self._activations.coverage

    def run(self, *, frames: bool = False) -> Found:
        """Pass the probe set through the model; from the second pass on nothing waits for its device.

        Args:
            frames: Also take features of the watched layer along.

        Returns:
            Predictions, losses, statistics of activations and perhaps features, on that device.

        Raises:
            ProbeError: The outputs cannot be read as `output` says.
        """
        with self._untouched.evaluating(), contextlib.ExitStack() as stack:
            if self.facts is None:
                stack.enter_context(_checked_tokens(self._model))
            chosen = self._plan or self._try()
            if chosen.crowded and not self._head_tried and not is_collective(self._model):
                self._try_head(chosen)
            result = self._pass(chosen, frames=frames)
        if self.facts is None:
            self.facts = ProbeFacts(chosen.count, chosen.classes, self._settings.output, self._digest)
        return result

    @property
    def has_loss(self) -> bool:
        """Whether passes make a loss; known from the first on."""
        given = self._settings.loss is not None and self._targets is not None
        return self.facts is not None and (given or self._usual_loss is not None)

    @contextlib.contextmanager
    def losses(self) -> Iterator[Callable[[], torch.Tensor]]:
        """Yield what passes the probe set and returns the mean loss, float32 without dimensions, on its device.

        The model is as it was once the block ends, but for what the block itself changes. Not before the first pass.
        """
        with self._untouched.evaluating():
            yield self._mean_loss

    def _mean_loss(self) -> torch.Tensor:
        chosen = self._plan
        if chosen is None or not self.has_loss:
            raise ProbeError("the probe set makes no loss")
        losses = Losses()
        for part in chosen.parts():
            with self._at_head(chosen, part):
                result = self._forward(self._part(self._inputs, part))
            kept = torch.from_numpy(chosen.kept(part))
            rows = self._kept_rows(chosen, part, result, kept)
            self._take_losses(chosen, part, result, (rows, kept), losses)
        return losses.mean()

    def _pass(self, chosen: Plan, *, frames: bool) -> Found:
        features = Features(self.layer, self._module)
        tally = Tally(self._settings.output, chosen.count, self._sketch, checked=self.facts is None)
        seen = _Seen(tally, Losses(), features if frames else None)
        failure: Exception | None = None
        try:
            self._activations.arm()
            with features.catching() if frames else contextlib.nullcontext():
                for part in chosen.parts():
                    with self._at_head(chosen, part):
                        result = self._forward(self._part(self._inputs, part))
                    try:
                        self._take(chosen, part, result, seen)
                    except Exception as error:  # raised once no other rank waits for us
                        if from_signal_handler(error):
                            raise
                        failure = failure or error
            values, names = self._activations.take()
        finally:
            self._activations.disarm()
        if failure is not None:
            raise failure
        tensors = {**seen.tally.result(self._scale(chosen)), **seen.losses.result(), "activations": values.reshape(-1)}
        if frames:
            made = features.result(self._signs, self._sketch.seed)
            if made is not None:
                tensors["frames"] = made.reshape(-1)
            self.warning = f"layer {self.layer!r} gives no frames: {features.problem}" if features.problem else None
        return Found(tensors, Reading(self.layer, chosen.count, seen.losses.weights, names))

    def _take(self, chosen: Plan, part: slice, result: Any, seen: _Seen) -> None:
        """Take in what one call returned."""
        kept = torch.from_numpy(chosen.kept(part))
        rows = self._kept_rows(chosen, part, result, kept)
        seen.tally.add(rows)
        self._take_losses(chosen, part, result, (rows, kept), seen.losses)
        if seen.features is not None:
            seen.features.take(part.stop - part.start, chosen.positions, kept)

    def _rows_of_call(self, chosen: Plan, part: slice) -> int:
        """Return how many output rows a call makes."""
        return chosen.offsets[part].size if self._head is not None else (part.stop - part.start) * chosen.positions

    def _kept_rows(self, chosen: Plan, part: slice, result: Any, kept: torch.Tensor) -> torch.Tensor:
        """Return the outputs of a call that are looked at, (positions × classes)."""
        rows = rows_of(tensor_of(result, self._settings.output))
        whole = self._rows_of_call(chosen, part)
        if rows.shape != (whole, chosen.classes):
            raise ProbeError(f"outputs were {whole} × {chosen.classes} at first and are {tuple(rows.shape)} now")
        return rows if self._head is not None else rows[to_device(kept, rows.device)]

    def _take_losses(
        self, chosen: Plan, part: slice, result: Any, looked_at: tuple[torch.Tensor, torch.Tensor], losses: Losses
    ) -> None:
        """Take in the losses of one call, whose rows that are looked at, and their indices, are given."""
        rows, kept = looked_at
        narrow = self._head is not None
        if self._usual_loss is not None and self._usual_targets is not None:
            targets = to_device(self._usual_targets[part].flatten(0, 1), rows.device)
            losses.add(self._usual_loss(rows, targets), len(kept))
        elif self._settings.loss is not None and self._targets is not None:
            value = self._given_loss(chosen, part, result, self._rows_of_call(chosen, part), narrow=narrow)
            if value is not None:
                losses.add(value if narrow or not value.dim() else value[to_device(kept, value.device)], len(kept))

    def _given_loss(self, chosen: Plan, part: slice, result: Any, rows: int, *, narrow: bool) -> torch.Tensor | None:
        targets = self._part(self._targets, part)
        if narrow:
            targets = probe_set.along_positions(targets, chosen.positions, torch.from_numpy(chosen.offsets[part]))
        value = self._settings.loss(result, targets) if self._settings.loss is not None else None
        return None if value is None else probe_outputs.loss_rows(value, rows)

    def _try(self) -> Plan:
        """Pass one example, to learn how many positions it has; plan the passes, and keep the examples they need."""
        settings, examples = self._settings, probe_set.count(self._inputs)
        outputs = tensor_of(self._forward(self._part(self._inputs, slice(0, 1))), settings.output)
        probe_outputs.check_layout(outputs, self._targets)
        positions, classes = rows_of(outputs).shape
        counted = probe_set.counted(self._targets, examples)
        if counted.shape[1] != positions:
            counted = np.ones((examples, positions), bool)
        chosen = plan(counted, classes, settings.positions, probe_plan.BUDGET)
        if settings.loss is None:
            self._usual_loss = probe_outputs.usual_loss(settings.output, classes, examples * positions, self._targets)
        self._inputs = self._near(probe_set.rows(self._inputs, chosen.examples))
        if self._targets is not None:
            self._targets = self._near(probe_set.rows(self._targets, chosen.examples))
        if self._usual_loss is not None and isinstance(self._targets, torch.Tensor):
            each = self._targets.reshape(len(chosen.examples), positions, -1)
            picked = probe_set.along_positions(each, positions, torch.from_numpy(chosen.offsets))
            self._usual_targets = picked if settings.output == "values" else picked.squeeze(-1)
        self._digest = probe_set.digest(self._inputs, chosen.offsets)
        self._plan = chosen
        return chosen

    def _try_head(self, chosen: Plan) -> None:
        """Compare outputs and losses of one example with those of a head that is given the chosen positions alone."""
        head = probe_head.find_head(self._model, chosen.classes)
        one = slice(0, 1)
        kept = torch.from_numpy(chosen.offsets[0])
        verdict: bool | None = False
        if head is not None:
            full = self._forward(self._part(self._inputs, one))
            try:
                with probe_head.narrowed(head, chosen.positions, torch.from_numpy(chosen.offsets[one])):
                    narrow = self._forward(self._part(self._inputs, one))
                verdict = self._agree(chosen, kept, full, narrow)
            except Exception as error:  # a forward or loss that cannot do with fewer positions may say so anyhow
                if from_signal_handler(error):
                    raise
                verdict = False
        self._head = head if verdict else None
        self._head_tried = verdict is not None

    def _agree(self, chosen: Plan, kept: torch.Tensor, full: Any, narrow: Any) -> bool | None:
        rows, few = (rows_of(tensor_of(result, self._settings.output)) for result in (full, narrow))
        verdict = probe_head.agree(rows, kept, few)
        if verdict and self._settings.loss is not None and self._targets is not None:
            whole = self._given_loss(chosen, slice(0, 1), full, len(rows), narrow=False)
            part = self._given_loss(chosen, slice(0, 1), narrow, len(few), narrow=True)
            if whole is not None and part is not None:
                verdict = probe_head.agree(whole, kept, part) is not False if whole.dim() else False
        return verdict

    def _at_head(self, chosen: Plan, part: slice) -> contextlib.AbstractContextManager[None]:
        if self._head is None:
            return contextlib.nullcontext()
        return probe_head.narrowed(self._head, chosen.positions, torch.from_numpy(chosen.offsets[part]))

    def _scale(self, chosen: Plan) -> torch.Tensor | None:
        """Return targets of regression in the shape of the outputs, (positions × outputs), where they have it."""
        targets = self._targets
        if not isinstance(targets, torch.Tensor) or not targets.is_floating_point():
            return None
        if targets.numel() != len(chosen.examples) * chosen.positions * chosen.classes:
            return None
        each = targets.reshape(len(chosen.examples), chosen.positions, chosen.classes)
        picked: torch.Tensor = probe_set.along_positions(each, chosen.positions, torch.from_numpy(chosen.offsets))
        return picked.flatten(0, 1)

    def _part(self, whole: Any, part: slice) -> Any:
        device = self._device()
        if device is None:
            return probe_set.change(whole, lambda tensor: tensor[part])
        return probe_set.change(whole, lambda tensor: to_device(tensor[part], device))

    def _near(self, whole: Any) -> Any:
        """Return it in memory that a GPU, if the model is on one, can copy from without making the host wait."""
        device = self._device()
        if device is None or device.type != "cuda":
            return whole
        return probe_set.change(whole, lambda tensor: tensor.pin_memory() if tensor.device.type == "cpu" else tensor)

    def _device(self) -> torch.device | None:
        return next((held.device for held in self._model.parameters() if held.device.type != "meta"), None)

    def _forward(self, inputs: Any) -> Any:
        if self._settings.forward is not None:
            return self._settings.forward(self._model, inputs)
        if isinstance(inputs, Mapping):
            return self._model(**inputs)
        return self._model(*inputs) if isinstance(inputs, tuple) else self._model(inputs)


@contextlib.contextmanager
def _checked_tokens(model: nn.Module) -> Iterator[None]:
    """Refuse tokens that an embedding does not have while the block runs: on an accelerator they end the process."""

    def check(module: nn.Embedding, arguments: tuple[Any, ...]) -> None:
        tokens = arguments[0] if arguments else None
        if not isinstance(tokens, torch.Tensor) or not tokens.numel() or hasattr(tokens, "full_tensor"):
            return
        least, most, known = int(tokens.min()), int(tokens.max()), module.num_embeddings
        if least < 0 or most >= known:
            raise ProbeError(f"probe inputs hold indices from {least} to {most}, and an embedding has {known} rows")

    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    handles = [module.register_forward_pre_hook(check) for module in embeddings]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
