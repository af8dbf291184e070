"""What carries shards and runs jobs: the interface that the engine drives, and the twin that does without Ray."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - named tuples keep their annotations
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from topowatch_monitor.engine.child_job import ChildJob
from topowatch_monitor.engine.shard import Shard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class ShardLostError(RuntimeError):
    """A carrier died or did not answer in time; its shards must be rebuilt from snapshot and log."""

    def __init__(self, carrier: int, why: str) -> None:
        super().__init__(f"shard carrier {carrier} is lost: {why}")
        self.carrier = carrier


class NoCarrierError(RuntimeError):
    """No carrier can be begun; the message says why and what to do."""


class ClusterLostError(RuntimeError):
    """The cluster is gone, or has begun anew and does not know us: nothing but to join one again."""


class JobLostError(RuntimeError):
    """The process that ran a job, or one that held what it needs, died; the job may be begun again."""


class JobFailedError(RuntimeError):
    """The function of a job raised an exception, which the message tells."""


@dataclass(frozen=True)
class Call:
    """A method of one carrier's shard that is under way; `needs` is the carrier whose answer it takes, if it does."""

    carrier: int
    handle: Any
    needs: int | None = None


class Standing(NamedTuple):
    """How a pool stands.

    Attributes:
        leaving: carriers that will not be there for long.
        lost: carriers that are out of reach, and why.
    """

    leaving: frozenset[int] = frozenset()
    lost: Mapping[int, str] = MappingProxyType({})


@dataclass(frozen=True)
class Job:
    """A function that runs beside the shards, in a process that can be killed."""

    handle: Any


class ShardPool(Protocol):
    """Carriers, each with one `Shard`. Calls to one carrier run in the order in which they were made.

    Beside them run jobs. What is large passes between carriers and jobs without passing through this process: a `Call`
    as an argument of a call or a job stands for its result, and what `put` returns for what it was given.
    """

    @property
    def carriers(self) -> Sequence[int]:
        """Numbers of the carriers that can be called; none is used again for another one."""

    @property
    def trouble(self) -> str:
        """What keeps the pool from carrying all that it should, in a sentence; empty if nothing does."""

    def start(self) -> None:
        """Wait until there is a carrier, with an empty shard; raises NoCarrierError or ClusterLostError."""

    def tend(self) -> Standing:
        """Begin carriers where there is room for them and take in those that have begun, without waiting for any.

        Raises ClusterLostError.
        """

    def call(self, carrier: int, method: str, *arguments: object) -> Call:
        """Begin a method of a carrier's shard; raises ShardLostError."""

    def ready(self, calls: Sequence[Call], timeout: float) -> list[Call]:
        """Those of `calls` that have ended, waiting up to `timeout` seconds for the first."""

    def result(self, call: Call, timeout: float) -> Any:
        """What the call returned; raises ShardLostError if it did not within `timeout` seconds."""

    def drop(self, carrier: int) -> None:
        """End a carrier, dead or alive."""

    def put(self, value: object) -> Any:
        """Make a value available to all carriers; return what stands for it as an argument of a call."""

    def submit(self, function: Callable[..., Any], *arguments: object) -> Job:
        """Begin a job, which yields to everything else; `function` is found by its name in an importable module.

        Raises JobLostError if there is no room for another process.
        """

    def ended(self, job: Job) -> bool:
        """Whether a job has come to its end, whichever."""

    def outcome(self, job: Job) -> Any:
        """What an ended job returned; raises JobLostError or JobFailedError."""

    def cancel(self, job: Job) -> None:
        """End a job by force, and forget it."""

    def close(self) -> None:
        """End all carriers."""


class InlinePool:
    """One shard in this process, where every call has ended when it returns; a job is a process of its own."""

    trouble = ""

    def __init__(self, make_shard: Callable[[], Shard] = Shard) -> None:
        self._make_shard = make_shard
        self._shards: dict[int, Shard] = {}
        self._begun = 0

    @property
    def carriers(self) -> Sequence[int]:
        """The one, once it was begun."""
        return list(self._shards)

    def start(self) -> None:
        """Begin the one with an empty shard, if it is not there."""
        if not self._shards:
            self._shards[self._begun] = self._make_shard()
            self._begun += 1

    def tend(self) -> Standing:
        """Nothing changes here."""
        return Standing()

    def call(self, carrier: int, method: str, *arguments: object) -> Call:
        """Run the method at once."""
        return Call(carrier, getattr(self._shards[carrier], method)(*arguments))

    def ready(self, calls: Sequence[Call], timeout: float) -> list[Call]:  # noqa: ARG002 - nothing to wait for
        """All of them."""
        return list(calls)

    def result(self, call: Call, timeout: float) -> Any:  # noqa: ARG002 - nothing to wait for
        """What the call returned."""
        return call.handle

    def drop(self, carrier: int) -> None:
        """Forget it."""
        del self._shards[carrier]

    def put(self, value: object) -> Any:
        """The value itself."""
        return value

    def submit(self, function: Callable[..., Any], *arguments: object) -> Job:
        """Begin a job in a new process; raises JobLostError."""
        results = [argument.handle if isinstance(argument, Call) else argument for argument in arguments]
        try:
            return Job(ChildJob(function, tuple(results)))
        except OSError as error:
            raise JobLostError(f"no process could be begun: {error.strerror}") from error

    def ended(self, job: Job) -> bool:
        """Whether the process has answered or died."""
        return bool(job.handle.ended)

    def outcome(self, job: Job) -> Any:
        """What the function returned; raises JobLostError or JobFailedError."""
        try:
            returned, answer = job.handle.answer()
        except EOFError:
            raise JobLostError("its process died") from None
        if not returned:
            raise JobFailedError(answer)
        return answer

    def cancel(self, job: Job) -> None:
        """Kill the process."""
        job.handle.kill()

    def close(self) -> None:
        """Nothing to end."""
