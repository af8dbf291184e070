"""The lives of one rank: which of them each step belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from topowatch_monitor.detect.superseded_samples import Streak, SupersededSamplesThresholds, detect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from topowatch_protos.v1 import run_pb2

# Above every step that a message can carry.
NEVER = 1 << 63


class Span(NamedTuple):
    """Steps with start ≤ step < stop."""

    start: int
    stop: int

    def __contains__(self, step: object) -> bool:
        return isinstance(step, int) and self.start <= step < self.stop


class Generation(NamedTuple):
    """What the lives have in common with which the ranks of a job begin together, after a rewind and in an elastic job.

    Parts of a model add up within one generation only. Ranks cannot agree on a number for it, but they load the same
    checkpoint. Lives that begin again where they had begun before are of the same generation.

    Attributes:
        start: the first step.
        world_size: ranks of the job.
        ranks: those of them whose parts add up to the whole model; 1 if each rank has all of it.
    """

    start: int
    world_size: int
    ranks: int


def generation_of(descriptor: run_pb2.RunDescriptor) -> Generation:
    """The generation of the life that a descriptor opens."""
    return Generation(descriptor.start_step, descriptor.world_size, max(1, descriptor.contributing_ranks))


class Lineage:
    """Generations of the incarnations of one rank.

    A step belongs to the newest incarnation that starts at or before it: a newer one supersedes all older samples from
    its start step on.
    """

    def __init__(self, lives: Mapping[int, Generation] | None = None) -> None:
        self._lives = dict(lives or {})

    def __contains__(self, incarnation: object) -> bool:
        return incarnation in self._lives

    @property
    def newest(self) -> int | None:
        """The newest incarnation; None before the first."""
        return max(self._lives, default=None)

    @property
    def lives(self) -> dict[int, Generation]:
        """Generation of every incarnation."""
        return dict(self._lives)

    def generation(self, incarnation: int) -> Generation:
        """The generation of an incarnation; raises KeyError if it was never opened."""
        return self._lives[incarnation]

    def open(self, incarnation: int, generation: Generation) -> Span | None:
        """Enter an incarnation; return the steps at which it supersedes older ones, None if it is known or has none."""
        if incarnation in self._lives:
            return None
        self._lives[incarnation] = generation
        span = self.span(incarnation)
        has_elders = any(other < incarnation for other in self._lives)
        return span if has_elders and span.start < span.stop else None

    def span(self, incarnation: int) -> Span:
        """The steps that belong to an incarnation; raises KeyError if it was never opened."""
        newer = (generation.start for other, generation in self._lives.items() if other > incarnation)
        return Span(self._lives[incarnation].start, min(newer, default=NEVER))

    def reach(self, generation: Generation) -> Span | None:
        """The steps that belong to a generation; None if none of its lives is known."""
        latest = max((life for life, other in self._lives.items() if other == generation), default=None)
        return None if latest is None else self.span(latest)


class Superseded:
    """Samples that were superseded when they arrived: a newer life of their rank covers their step.

    Attributes:
        count: how many, of all ranks.
    """

    def __init__(self) -> None:
        self.count = 0
        # By rank: those since the newest life was last heard of.
        self._streaks: dict[int, Streak] = {}

    def add(self, rank: int, incarnation: int, newest: int, step: int, received_at: float | None) -> None:
        """Count a sample of an `incarnation`, which the `newest` one of its rank supersedes."""
        self.count += 1
        before = self._streaks.get(rank)
        if before is None or (before.incarnation, before.newest) != (incarnation, newest):
            self._streaks[rank] = Streak(incarnation, newest, 1, step, received_at, received_at)
        else:
            self._streaks[rank] = before._replace(samples=before.samples + 1, last_at=received_at)

    def heard(self, rank: int) -> None:
        """Note that the newest life of a rank sends, or a new one begins."""
        self._streaks.pop(rank, None)

    def flag(self, thresholds: SupersededSamplesThresholds) -> tuple[int, str] | None:
        """First step and reason of the lowest rank whose samples keep coming while its newest life is silent."""
        for rank in sorted(self._streaks):
            reason = detect(self._streaks[rank], thresholds)
            if reason is not None:
                return self._streaks[rank].first_step, reason
        return None

    def state_dict(self) -> dict[str, Any]:
        """The counts, as plain numbers."""
        return {"count": self.count, "streaks": {str(rank): list(streak) for rank, streak in self._streaks.items()}}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Superseded:
        """The counts that `state_dict` described."""
        superseded = cls()
        superseded.count = state["count"]
        superseded._streaks = {int(rank): Streak(*streak) for rank, streak in state["streaks"].items()}
        return superseded
