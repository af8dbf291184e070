"""What carries shards: the interface that the dispatcher drives, and the carrier that lives in this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from topowatch_monitor.engine.shard import Shard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class ShardLostError(RuntimeError):
    """A carrier died or did not answer in time; its shards must be rebuilt from snapshot and log."""

    def __init__(self, carrier: int, why: str) -> None:
        super().__init__(f"shard carrier {carrier} is lost: {why}")
        self.carrier = carrier


@dataclass(frozen=True)
class Call:
    """A method of one carrier's shard that is under way."""

    carrier: int
    handle: Any


class ShardPool(Protocol):
    """Carriers 0 … size−1, each with one `Shard`. Calls to one carrier run in the order in which they were made."""

    @property
    def size(self) -> int:
        """Number of carriers."""

    def call(self, carrier: int, method: str, *arguments: object) -> Call:
        """Begin a method of a carrier's shard; raises ShardLostError."""

    def ready(self, calls: Sequence[Call], timeout: float) -> list[Call]:
        """Those of `calls` that have ended, waiting up to `timeout` seconds for the first."""

    def result(self, call: Call, timeout: float) -> Any:
        """What the call returned; raises ShardLostError if it did not within `timeout` seconds."""

    def replace(self, carrier: int) -> None:
        """Put an empty shard in place of the carrier's; the dispatcher fills it."""

    def close(self) -> None:
        """End all carriers."""


class InlinePool:
    """One shard in this process; every call has ended when it returns."""

    size = 1

    def __init__(self, make_shard: Callable[[], Shard] = Shard) -> None:
        self._make_shard = make_shard
        self._shard = make_shard()

    def call(self, carrier: int, method: str, *arguments: object) -> Call:
        """Run the method at once."""
        return Call(carrier, getattr(self._shard, method)(*arguments))

    def ready(self, calls: Sequence[Call], timeout: float) -> list[Call]:  # noqa: ARG002 - nothing to wait for
        """All of them."""
        return list(calls)

    def result(self, call: Call, timeout: float) -> Any:  # noqa: ARG002 - nothing to wait for
        """What the call returned."""
        return call.handle

    def replace(self, carrier: int) -> None:  # noqa: ARG002 - there is one
        """Begin anew with an empty shard."""
        self._shard = self._make_shard()

    def close(self) -> None:
        """Nothing to end."""
