"""The public face: `attach` puts the hooks on, `Watch` is the handle. No error of ours gets past this file."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import time
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from topowatch_client import arguments, collector, guard, names
from topowatch_client import config as settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    import torch

    from topowatch_client.config import Config, Launch
    from topowatch_client.observer import Observer
    from topowatch_client.spool import SpoolWriter
    from topowatch_client.steps import StepCounter

_FAILURES = 3  # without a sample between them, until watching stops
_RESPAWN_SECONDS, _LONGEST_RESPAWN_SECONDS = 10.0, 640.0
_FINISH_SECONDS = 4.0  # when `finish` stops waiting for the last acks
_FINISH_UNREACHED_SECONDS = 1.0  # the same, where the daemon did not answer before
_log = logging.getLogger("topowatch")


def attach(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer
    | Iterable[torch.optim.Optimizer]
    | Mapping[Any, torch.optim.Optimizer]
    | None = None,
    *,
    run: str | None = None,
    group: str | None = None,
    labels: Mapping[str, str] | None = None,
    endpoint: str | None = None,
    probe: tuple[Any, Any] | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    forward: Callable[[Any, Any], Any] | None = None,
    output: str = "logits",
    layer: str | None = None,
    config: Config | Mapping[str, Any] | None = None,
) -> Watch:
    """Watch a training loop; trouble on our side is logged, never raised, and leaves a disabled handle.

    Args:
        model: The model, plain, compiled, wrapped in DistributedDataParallel, or sharded (FSDP, FSDP2, DTensors).
            Every rank calls `attach`; those with nothing to send get a disabled handle that says so. The ranks of a
            sharded model wait up to 60 s for each other here where they have to agree: on a name for the run if it has
            none that all know, and on probe passes.
        optimizer: Whose steps are counted; None for loops that call `Watch.step()`. Of several (a sequence, or values
            of a mapping: one a parameter where they run within the backward pass, one a network of a GAN) a step has
            ended when each has stepped once, or one begins its next step.
        run: Name of the run, the same on all ranks (default: the launcher's job id, else <script>-<host>-<time>).
        group: Runs of one group are compared with one another.
        labels: Anything to tell runs apart by, such as hyperparameters.
        endpoint: The daemon's gRPC address, HOST:PORT.
        probe: (inputs, targets) to look at the model's predictions with; inputs are a tensor, tuple or mapping with
            one example a row, targets may be None. Of a language model they are the next tokens, shifted already, and
            -100 where none counts.
        loss: callable(outputs, targets) → one loss an example (`reduction="none"` style), or one in all. Default:
            cross-entropy for logits with integer targets (of two classes where there is one logit), squared error for
            values.
        forward: callable(model, inputs) → outputs, where `model(inputs)` is not the way to call it.
        output: What the outputs are: "logits", "probs" or "values".
        layer: Name of the module whose output is the representation (default: the input of the last Linear).
        config: A `Config`, or a mapping of its fields; the arguments above win over it. A job that goes on from a
            checkpoint with an optimiser that keeps no step count, such as SGD, passes {"start_step": n} here, n being
            the steps done before; otherwise it would begin at step 0 and supersede its own earlier samples.

    Returns:
        The handle; its `status` tells the mode and what is wrong, if anything is.
    """
    watch = Watch()
    try:
        named = {"run": run, "group": group, "endpoint": endpoint}
        if isinstance(config, settings.Config):
            chosen = settings.override(config, named)
        else:
            given = {key: value for key, value in named.items() if value is not None}
            chosen = settings.load({**(config or {}), **given})
        probing = arguments.probe_arguments(probe, loss, forward, output, layer)
        with collector.paused():
            watch._start(model, optimizer, chosen, launch=settings.launch(), labels=dict(labels or {}), probe=probing)
    except Exception as error:
        if guard.from_signal_handler(error):
            raise
        watch._disable(str(error) or repr(error))
        _log.error("topowatch is off for this run: %s", watch.status["error"])
    return watch


class Watch:
    """Handle on a watched run, from `attach`; also a context manager that finishes the run if the block succeeds."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._mode = "disabled"
        self._error: str | None = None
        self._warning: str | None = None
        self._config: Config | None = None
        self._run: str | None = None
        self._observer: Observer | None = None
        self._pacing: Observer | None = None  # once watching ended that other ranks rely on
        self._spool: SpoolWriter | None = None
        self._handles: list[Any] = []
        self._failures = 0
        self._failed = 0
        self._checked_at = 0.0
        self._check_seconds = _RESPAWN_SECONDS
        self._turns = guard.Turns()
        self._at_exit: Callable[[], None] | None = None

    def __reduce__(self) -> tuple[type[Watch], tuple[()]]:
        """A copy or an unpickled handle is a disabled one: files and hooks belong to the original, as does the run."""
        return Watch, ()

    def __copy__(self) -> Watch:
        return Watch()

    def __deepcopy__(self, memo: dict[int, Any]) -> Watch:
        return Watch()

    def log(self, **scalars: Any) -> None:
        """Keep numbers or tensors of one element for the optimiser step that just ended; nothing waits for a device."""
        self._turns.take(lambda: self._log(scalars))

    def step(self) -> None:
        """Say that an optimiser step ended, in loops where no optimiser was given to `attach`."""
        self._turns.take(self._on_step)

    def finish(self, **results: float) -> None:
        """End the run with its final results; takes at most 5 s, waiting for the last samples to be acked.

        Called by a signal handler in the middle of a look at the model, it is done as soon as that ends.
        """
        self._turns.take(lambda: self._finish(results))

    def _log(self, scalars: Mapping[str, Any]) -> None:
        observer = self._live()
        if observer is not None:
            self._guarded(lambda: observer.log(scalars), fatal=False)

    def _finish(self, results: Mapping[str, Any]) -> None:
        observer, spool = self._live(), self._spool
        if observer is None or spool is None:
            return
        began = time.monotonic()
        numbers: dict[str, float] = {}
        for name, value in results.items():
            self._guarded(functools.partial(arguments.put_number, numbers, name, value), fatal=False)
        self._guarded(lambda: observer.finish(numbers))
        self._close(ended=True)
        self._guarded(lambda: self._wait_for_acks(began), fatal=False)

    @property
    def status(self) -> dict[str, Any]:
        """What watching does and costs now: mode, samples, dropped, spooled_bytes, overhead_ratio, coverage and more.

        `samples` counts what went into the spool, a step after it was taken; `acked` and `forwarder` are what the
        forwarder last noted.
        """
        observer, spool, chosen = self._observer, self._spool, self._config
        outcome: dict[str, Any] = {}
        if spool is not None:
            from topowatch_client.outcome import read_outcome

            outcome = read_outcome(spool.directory, spool.next_seq)
        warnings = (self._warning, observer.warning if observer else None)
        return {
            "mode": self._mode,
            "run": self._run,
            "group": chosen.group if chosen else None,
            "incarnation": observer.incarnation if observer else 0,
            "step": observer.step if observer else None,
            "samples": observer.samples if observer else 0,
            "dropped": spool.dropped if spool else 0,
            "spooled_bytes": spool.size_bytes if spool else 0,
            "spool": str(spool.directory) if spool else None,
            "overhead_ratio": observer.governor.total_ratio if observer else 0.0,
            "interval": observer.governor.interval if observer else None,
            "coverage": observer.coverage if observer else 0.0,
            "activation_coverage": observer.activation_coverage if observer else None,
            "acked": outcome.get("acked", 0),
            "rejected": outcome.get("rejected", 0),
            "forwarder": outcome.get("message", ""),
            "failures": self._failed,
            "not_measured": observer.excursions.problem if observer else None,
            "warning": "; ".join(text for text in warnings if text) or None,
            "error": self._error or (observer.probe_error if observer else None),
        }

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:  # the run did not end by itself: nothing says that it did
            self._turns.take(self._flush)

    def _start(
        self,
        model: torch.nn.Module,
        optimizer: Any,
        config: Config,
        *,
        launch: Launch,
        labels: Mapping[str, str],
        probe: Mapping[str, Any] | None,
    ) -> None:
        self._config, self._run = config, config.run or launch.run
        if config.mode == "disabled":
            return
        config, self._run, labels = self._acceptable(config, self._run, labels)
        self._config = config
        from topowatch_client import session, steps

        session.check_model(model)
        optimizers = steps.optimizers_of(optimizer)
        asked = session.Asked(self._run, config.run is not None or launch.shared, labels, probe)
        try:
            opened = session.open_session(model, optimizers, config, asked, (launch.rank, launch.world_size))
        except session.NothingToSendError as nothing:
            self._error = str(nothing)
            return
        self._observer, self._spool, self._mode = opened.observer, opened.spool, config.mode
        self._run = opened.run
        counter = steps.StepCounter(optimizers, self._on_step)
        for index, each in enumerate(optimizers):
            self._handles += [
                each.register_step_post_hook(_untraced(lambda *_, index=index: self._after_step(counter, index))),
                each.register_load_state_dict_post_hook(_untraced(lambda *_: self._on_load())),
            ]
        self._at_exit = _flush_of(weakref.ref(self))
        atexit.register(self._at_exit)
        self._guarded(self._check_forwarder, fatal=False)

    def _acceptable(self, config: Config, run: str, labels: Mapping[str, str]) -> tuple[Config, str, Mapping[str, str]]:
        """Change what the daemon would refuse in names and labels, and say so once."""
        group, name = names.of_key(config.group), names.of_key(run)
        kept, changes = names.of_labels(labels)
        for what, given, used in (("group", config.group, group), ("run", run, name)):
            if given != used:
                changes.append(f"{what} {names.shown(given)} is called {names.shown(used)}")
        if changes:
            self._warning = (
                f"the daemon takes names as text of at most {names.LONGEST} characters: {', '.join(changes)}"
            )
            _log.warning("topowatch: %s", self._warning)
        return (config if group == config.group else replace(config, group=group)), name, kept

    def _on_step(self) -> None:
        observer = self._live()
        if observer is None:
            if self._pacing is not None and os.getpid() == self._pid:
                self._guarded(self._pacing.keep_pace, fatal=False)
            return
        samples = observer.samples
        if self._guarded(observer.on_step) and observer.samples != samples:
            self._failures = 0
            self._guarded(self._check_forwarder, fatal=False)

    def _after_step(self, counter: StepCounter, index: int) -> None:
        def step() -> None:
            observer = self._live()
            if not counter.stepped(index) and observer is not None:
                observer.mark()  # it may have written what was there already

        self._turns.take(lambda: self._guarded(step, fatal=False))

    def _on_load(self) -> None:
        observer = self._live() or self._pacing
        if observer is not None:
            self._turns.take(lambda: self._guarded(observer.on_load))

    def _live(self) -> Observer | None:
        """Return the observer, None when watching is off or this is a forked child (a DataLoader's worker)."""
        return self._observer if self._mode in ("online", "offline") and os.getpid() == self._pid else None

    def _guarded(self, action: Callable[[], None], *, fatal: bool = True) -> bool:
        """Run something of ours; training never sees what goes wrong in it.

        Fatal errors end watching when several come without a sample between them.
        """
        try:
            action()
        except Exception as error:
            if guard.from_signal_handler(error):
                raise  # training's own
            self._failed += 1
            self._failures += fatal
            if self._error is None:
                _log.warning("topowatch: an error was kept from training", exc_info=True)
            self._error = repr(error)
            if fatal and self._failures >= _FAILURES:
                self._disable(f"watching stopped after {_FAILURES} errors in a row, the last: {error!r}")
                _log.error("topowatch: %s", self._error)
            return False
        return True

    def _check_forwarder(self) -> None:
        """Start the forwarder unless it runs; the file system is asked now and then only."""
        config = self._config
        now = time.monotonic()
        if (
            config is None
            or config.mode != "online"
            or (self._checked_at and now - self._checked_at < self._check_seconds)
        ):
            return
        self._checked_at = now
        from topowatch_client.spawn import ensure_forwarder, forwarder_cpu_seconds

        if ensure_forwarder(config.spool_dir, config.token):
            self._check_seconds = min(
                2 * self._check_seconds, _LONGEST_RESPAWN_SECONDS
            )  # one that cannot start is dear
            return
        self._check_seconds = _RESPAWN_SECONDS
        if self._observer is not None:
            self._observer.charge_forwarder(forwarder_cpu_seconds(config.spool_dir))

    def _wait_for_acks(self, began: float) -> None:
        """Give the last samples a moment to arrive: in a container nothing outlives the job."""
        spool, config = self._spool, self._config
        if spool is None or config is None or config.mode != "online":
            return
        from topowatch_client.outcome import put_away
        from topowatch_client.spool import read_cursor

        self._checked_at = 0.0
        self._check_forwarder()
        while not put_away(spool.directory):
            cursor = read_cursor(spool.directory)
            if cursor.get("next_seq", 0) >= spool.next_seq:
                return
            patience = _FINISH_SECONDS if cursor.get("connected", True) else _FINISH_UNREACHED_SECONDS
            if time.monotonic() - began > patience:
                return
            time.sleep(0.02)

    def _flush(self) -> None:
        observer = self._live()
        if observer is not None:
            self._guarded(observer.flush)
            self._close(ended=False)

    def _close(self, *, ended: bool) -> None:
        spool = self._spool
        self._unhook()
        if self._observer is not None:
            self._guarded(self._observer.release)
        if spool is not None:
            self._guarded(lambda: spool.close(ended=ended))
        self._mode = "finished"

    def _disable(self, reason: str) -> None:
        self._mode, self._error = "disabled", reason
        if self._observer is not None:
            self._try(self._observer.flush)
        if self._observer is not None and self._observer.collective:
            self._observer.let_go()
            self._pacing = self._observer
        else:
            self._unhook()
            if self._observer is not None:
                self._observer.release()
        if self._spool is not None:
            self._try(functools.partial(self._spool.close, ended=False))

    def _try(self, action: Callable[[], None]) -> None:
        """Do what may be in vain once watching has ended."""
        try:
            action()
        except Exception as error:
            if guard.from_signal_handler(error):
                raise
            _log.debug("topowatch: %s", action, exc_info=True)

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._at_exit is not None:
            atexit.unregister(self._at_exit)
            self._at_exit = None


def _untraced(hook: Callable[..., None]) -> Callable[..., None]:
    """Return a hook that a compiled step calls and does not trace into."""
    from torch.compiler import disable

    untraced: Callable[..., None] = disable(hook)  # type: ignore[no-untyped-call] # torch leaves it untyped
    return untraced


def _flush_of(reference: weakref.ref[Watch]) -> Callable[[], None]:
    def flush() -> None:
        watch = reference()
        if watch is not None:
            watch._turns.take(watch._flush)

    return flush
