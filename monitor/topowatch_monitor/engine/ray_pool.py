"""Shards on Ray actors, and jobs as Ray tasks. The one file that knows Ray."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from topowatch_monitor.engine.child_job import NICER
from topowatch_monitor.engine.pool import Call, Job, JobFailedError, JobLostError, ShardLostError
from topowatch_monitor.engine.shard import Shard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from topowatch_monitor.engine.told import RunSettings

OBJECT_STORE_BYTES = 256 << 20


class RayPool:
    """A fixed number of actors, each carrying one `Shard`; an actor that died stays dead until `replace`.

    Args:
        size: actors to keep.
        settings: how much of each run is looked at.
        address: a cluster to join (`auto` or HOST:PORT), or None for a Ray of our own on this machine.
        processors: what one actor reserves of a cluster's CPUs.

    Raises:
        ConnectionError: there is no Ray at `address`.
    """

    def __init__(
        self, size: int, settings: RunSettings, address: str | None = None, *, processors: float = 1.0
    ) -> None:
        own = address is None
        ray.init(
            address=address or "local",
            num_cpus=max(1, round(size * processors)) if own else None,
            object_store_memory=OBJECT_STORE_BYTES if own else None,
            include_dashboard=False if own else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
            # Ray gives its workers a niceness of 15: beside a busy job an actor would not even start within minutes.
            _system_config={"worker_niceness": 0} if own else None,
        )
        # An actor that Ray revived by itself would be empty, so Ray revives none.
        self._settings = settings
        self._actor_class = ray.remote(num_cpus=processors, max_restarts=0, max_task_retries=0)(Shard)
        self._actors: list[Any] = [self._actor_class.remote(self._settings) for _ in range(size)]
        # Actors may hold all processors, so a job reserves none and yields to them. Its process, whose priority cannot
        # be raised again, serves no second one, let alone an actor.
        self._task = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(_yielding)

    @property
    def size(self) -> int:
        """Number of actors."""
        return len(self._actors)

    def call(self, carrier: int, method: str, *arguments: object) -> Call:
        """Begin an actor call; raises ShardLostError."""
        try:
            return Call(carrier, getattr(self._actors[carrier], method).remote(*arguments))
        except RayError as error:
            raise ShardLostError(carrier, str(error)) from error

    def ready(self, calls: Sequence[Call], timeout: float) -> list[Call]:
        """Those of `calls` that have ended or failed, waiting up to `timeout` seconds for the first."""
        if not calls:
            return []
        done, _ = ray.wait([call.handle for call in calls], num_returns=len(calls), timeout=0)
        if not done and timeout > 0:
            done, _ = ray.wait([call.handle for call in calls], num_returns=1, timeout=timeout)
        ended = set(done)
        return [call for call in calls if call.handle in ended]

    def result(self, call: Call, timeout: float) -> Any:
        """What the call returned; raises ShardLostError if it did not within `timeout` seconds."""
        try:
            return ray.get(call.handle, timeout=timeout)
        except RayTaskError:
            raise  # a defect of ours, which a new actor would meet again
        except GetTimeoutError as error:
            raise ShardLostError(call.carrier, f"no answer for {timeout:g} s") from error
        except RayError as error:
            raise ShardLostError(call.carrier, _first_line(error)) from error

    def replace(self, carrier: int) -> None:
        """Kill what is left of the actor and start an empty one."""
        ray.kill(self._actors[carrier])
        self._actors[carrier] = self._actor_class.remote(self._settings)

    def put(self, value: object) -> Any:
        """Put a value in the object store."""
        return ray.put(value)

    def submit(self, function: Callable[..., Any], *arguments: object) -> Job:
        """Begin a job as a task."""
        results = [argument.handle if isinstance(argument, Call) else argument for argument in arguments]
        return Job(self._task.remote(function, *results))

    def ended(self, job: Job) -> bool:
        """Whether the task returned, raised or died."""
        done, _ = ray.wait([job.handle], timeout=0)
        return bool(done)

    def outcome(self, job: Job) -> Any:
        """What the function returned; raises JobLostError or JobFailedError."""
        try:
            return ray.get(job.handle)
        except RayTaskError as error:
            if isinstance(error.cause, RayError):  # what it needs was with a carrier that died
                raise JobLostError(_first_line(error.cause)) from error
            raise JobFailedError(f"{type(error.cause).__name__}: {error.cause}") from error
        except RayError as error:
            raise JobLostError(_first_line(error)) from error

    def cancel(self, job: Job) -> None:
        """Kill the task's process."""
        ray.cancel(job.handle, force=True)

    def close(self) -> None:
        """Leave the cluster; a Ray of our own ends with it."""
        ray.shutdown()


def _yielding(function: Callable[..., Any], *arguments: object) -> Any:
    os.nice(NICER)
    return function(*arguments)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
