"""What steps a model in the benchmark of overhead: nothing, topowatch, and other tools at their usual settings.

Other processes that belong to a side run only while it has its turn, and count with it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

import topowatch_client
from topowatch_client import weights
from topowatch_client.governor import Spent
from topowatch_client.probes import Probe
from topowatch_client.sketch import FoldSketch
from topowatch_client.spawn import forwarder_pid
from topowatch_client.spool import read_cursor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from overhead_models import Workload

EVERY = 50  # steps between the histograms of the other tools
_START_SECONDS = 30.0


class Side:
    """Nothing but the training: the bare side, and the base of the others."""

    version = ""

    def __init__(self, workload: Workload, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.workload, self.model, self.optimizer = workload, model, optimizer
        self.steps = 0
        self.helpers: list[int] = []  # process ids

    def step(self) -> None:
        """One step, watched as the side does."""
        self.optimizer.zero_grad()
        loss = self.workload.loss(self.model, self.steps)
        loss.backward()
        self.between(loss)
        self.optimizer.step()
        self.after(loss)
        self.steps += 1

    def between(self, loss: torch.Tensor) -> None:
        """What the side's user calls between the backward pass and the optimiser."""

    def after(self, loss: torch.Tensor) -> None:
        """What the side's user calls at the end of a step."""

    def enter(self) -> float:
        """Begin a turn; return the processor time of the helpers so far."""
        self._signal(signal.SIGCONT)
        return self._used()

    def leave(self) -> float:
        """End a turn; return the processor time of the helpers so far."""
        self._signal(signal.SIGSTOP)
        return self._used()

    def measure(self) -> None:
        """Say that the warm-up is over."""

    def report(self) -> dict[str, Any]:
        """What else there is to say, at the end."""
        return {}

    def close(self) -> None:
        """End everything that was started."""
        self._signal(signal.SIGCONT)

    def _used(self) -> float:
        used = 0.0
        for pid in self.helpers:
            with contextlib.suppress(OSError):
                used += time.clock_gettime((~pid << 3) | 2)  # as clock_getcpuclockid(3) makes it
        return used

    def _signal(self, number: int) -> None:
        for pid in self.helpers:
            with contextlib.suppress(OSError):
                os.kill(pid, number)


class Topowatch(Side):
    """Our client with its forwarder, which ships to a server in another process."""

    def __init__(
        self,
        workload: Workload,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        endpoint: str,
        **config: Any,
    ) -> None:
        super().__init__(workload, model, optimizer)
        self._folder = tempfile.TemporaryDirectory()
        self._spool = Path(self._folder.name)
        self._stopwatch = _Stopwatch()
        self._base = Spent(), Spent()
        optimizer.register_step_post_hook(lambda *_: self._stopwatch.begin())
        self.watch = topowatch_client.attach(
            model,
            optimizer,
            run="overhead",
            endpoint=endpoint,
            probe=workload.probe,
            config={"spool_dir": self._spool, **config},
        )
        optimizer.register_step_post_hook(lambda *_: self._stopwatch.end())
        deadline = time.monotonic() + _START_SECONDS
        while (pid := forwarder_pid(self._spool)) is None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the forwarder did not start: {self.watch.status}")
            time.sleep(0.05)
        self.helpers = [pid]

    @property
    def _observer(self) -> Any:
        return self.watch._observer

    def enter(self) -> float:
        used = super().enter()
        self._observer._ended_at = Spent(time.perf_counter(), time.process_time())  # others' turns are not its time
        return used

    def step(self) -> None:
        with self._stopwatch.watching():
            super().step()

    def after(self, loss: torch.Tensor) -> None:
        self.watch.log(loss=loss)

    def measure(self) -> None:
        self._stopwatch.hooks.clear()
        self._base = self._observer.governor.account
        self._samples, self._passes = self.watch.status["samples"], self._observer._passes

    def report(self) -> dict[str, Any]:
        governor = self._observer.governor
        own, whole = (now.minus(before) for now, before in zip(governor.account, self._base, strict=True))
        status = self.watch.status
        return {
            "interval": governor.interval,
            "update_interval": governor.update_interval,
            "probe_interval": governor.probe_interval,
            "samples": status["samples"] - self._samples,
            "probe_passes": self._observer._passes - self._passes,
            "own": {"cpu": own.cpu / whole.cpu, "wall": own.wall / whole.wall, "ratio": own.share_of(whole)},
            "hook": self._stopwatch.report(),
            "dropped": status["dropped"],
            "failures": status["failures"],
        }

    def close(self) -> None:
        super().close()
        self.watch.finish()
        for pid in self.helpers:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGINT)
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(self.helpers[0]).wait(10)
        self._folder.cleanup()

    def shipped(self) -> bool:
        """Whether the server has everything."""
        spool = Path(self.watch.status["spool"])
        return read_cursor(spool).get("next_seq", 0) >= self.watch._spool.next_seq


class _Stopwatch:
    """Times our optimiser hook, and apart from that sketches, their sums, norms and probe passes within it."""

    def __init__(self) -> None:
        self.hooks: list[tuple[float, float]] = []  # seconds of each: without those, and of those
        self._began = 0.0
        self._inside = 0.0
        self._depth = 0

    def begin(self) -> None:
        self._inside = 0.0
        self._began = time.perf_counter()

    def end(self) -> None:
        took = time.perf_counter() - self._began
        self.hooks.append((took - self._inside, self._inside))

    def report(self) -> dict[str, float]:
        """Percentiles of a hook's seconds beyond kernels: of all steps, and of those with a look at the weights."""
        beyond, kernels = np.array(self.hooks).T
        looking = beyond[kernels > 0] if (kernels > 0).any() else np.zeros(1)
        return {
            "median": float(np.median(beyond)),
            "p99": float(np.percentile(beyond, 99)),
            "looking_median": float(np.median(looking)),
            "looking_p99": float(np.percentile(looking, 99)),
        }

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Time the kernels of this side's step."""
        sketches = [(FoldSketch, name) for name in ("matrix", "slice", "box")]
        originals = [*sketches, (Probe, "run"), (weights, "reduced"), (weights, "_norms")]
        kept = [getattr(owner, name) for owner, name in originals]
        for (owner, name), original in zip(originals, kept, strict=True):
            setattr(owner, name, self._timed(original))
        try:
            yield
        finally:
            for (owner, name), original in zip(originals, kept, strict=True):
                setattr(owner, name, original)

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            self._depth += 1
            try:
                return method(*arguments, **named)
            finally:
                self._depth -= 1
                if not self._depth:
                    self._inside += time.perf_counter() - began

        return timed


class Wandb(Side):
    """`wandb.watch(log="all")`, offline, and a log a step."""

    def __init__(self, workload: Workload, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        import wandb

        super().__init__(workload, model, optimizer)
        self.version = wandb.__version__
        self._folder = tempfile.TemporaryDirectory()
        before = set(psutil.Process().children(recursive=True))
        self._run = wandb.init(mode="offline", project="overhead", dir=self._folder.name, settings={"silent": True})
        self._run.watch(model, log="all", log_freq=EVERY)
        self.helpers = [child.pid for child in set(psutil.Process().children(recursive=True)) - before]

    def after(self, loss: torch.Tensor) -> None:
        self._run.log({"loss": loss.item()})

    def close(self) -> None:
        super().close()
        self._run.finish()
        self._folder.cleanup()


class TensorBoard(Side):
    """Histograms of all parameters and gradients, and the loss of every step."""

    def __init__(self, workload: Workload, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        import tensorboard
        from torch.utils.tensorboard import SummaryWriter

        super().__init__(workload, model, optimizer)
        self.version = tensorboard.__version__
        self._folder = tempfile.TemporaryDirectory()
        self._writer = SummaryWriter(self._folder.name)

    def after(self, loss: torch.Tensor) -> None:
        self._writer.add_scalar("loss", loss.item(), self.steps)
        if self.steps % EVERY == 0:
            for name, parameter in self.model.named_parameters():
                self._writer.add_histogram(name, parameter, self.steps)
                if parameter.grad is not None:
                    self._writer.add_histogram(f"{name}.grad", parameter.grad, self.steps)

    def leave(self) -> float:
        began = time.process_time()
        self._writer.flush()  # its thread's work is this side's too
        return super().leave() + time.process_time() - began

    def close(self) -> None:
        self._writer.close()
        self._folder.cleanup()


class TrainScope(Side):
    """trainscope at its defaults, called where its documentation says."""

    def __init__(self, workload: Workload, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        import trainscope
        from trainscope.core.config import TrainScopeConfig

        super().__init__(workload, model, optimizer)
        self.version = importlib.metadata.version("trainscope")
        self._folder = tempfile.TemporaryDirectory()
        # As in a job without wandb, whose run it would take for its own.
        settings = TrainScopeConfig(run_dir=self._folder.name, integrations={"wandb": False})
        self._scope = trainscope.TrainScope(model, optimizer, config=settings).attach()

    def between(self, loss: torch.Tensor) -> None:
        self._scope.step(loss.item(), batch_index=self.steps)

    def close(self) -> None:
        self._scope.detach()
        self._folder.cleanup()


# By name: how a side is made, and whether it trains the same tensors as the bare one.
SIDES: dict[str, tuple[Callable[..., Side], bool]] = {
    "bare": (lambda workload, model, optimizer, _: Side(workload, model, optimizer), True),
    "control": (lambda workload, model, optimizer, _: Side(workload, model, optimizer), True),
    "topowatch": (Topowatch, True),
    "topowatch, every 8": (lambda *parts: Topowatch(*parts, interval=8, probe_interval=32), True),
    "wandb.watch": (lambda workload, model, optimizer, _: Wandb(workload, model, optimizer), False),
    "TensorBoard": (lambda workload, model, optimizer, _: TensorBoard(workload, model, optimizer), False),
    "trainscope": (lambda workload, model, optimizer, _: TrainScope(workload, model, optimizer), False),
}
