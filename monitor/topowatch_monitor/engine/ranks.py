"""The ranks of a job: their lives, who leads, who is missing, and what their parts of a sharded model add up to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from topowatch_monitor.detect import MISSING_RANK, SUPERSEDED_SAMPLES
from topowatch_monitor.engine.assembly import Assembly, Part, part_of
from topowatch_monitor.engine.attendance import Attendance
from topowatch_monitor.engine.lineage import Generation, Lineage, Span, Superseded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from topowatch_monitor.detect import Thresholds
    from topowatch_monitor.engine.reading import Reading
    from topowatch_monitor.engine.view import RanksView


class Opening(NamedTuple):
    """What it means for the run that a life has begun.

    Attributes:
        first: whether it is the first known of its rank.
        newest: whether it is the newest known of its rank.
        superseded: steps that it takes from older lives of its rank; None if there are none.
        undone: those of them at which parts of an older life may have been added up with those of the leader.
    """

    first: bool
    newest: bool
    superseded: Span | None
    undone: list[Span]


class Ranks:
    """The ranks of one run.

    The lowest rank leads. A step of a sharded model is whole where the lives that it belongs to are of one generation,
    with the leader among them: a rank that goes back alone, or takes itself for one of another number, adds nothing.

    Args:
        thresholds: when detectors that look at ranks fire.

    Attributes:
        leader: the lowest rank; None before the first.
    """

    def __init__(self, thresholds: Thresholds) -> None:
        self.leader: int | None = None
        self._thresholds = thresholds
        self._lineages: dict[int, Lineage] = {}
        self._attendance = Attendance(thresholds.missing_rank)
        self._assembly = Assembly(self._attendance.standings)
        self._superseded = Superseded()

    @property
    def superseded(self) -> int:
        """Samples that were superseded when they arrived."""
        return self._superseded.count

    @property
    def incomplete(self) -> int:
        """Steps of a sharded model that lack a part for good."""
        return self._assembly.incomplete

    @property
    def refused(self) -> int:
        """Parts and sums of a sharded model that have no place on a path."""
        return self._assembly.refused

    def newest(self, rank: int | None) -> int | None:
        """The newest incarnation of a rank; None if there is none."""
        return self._lineages[rank].newest if rank in self._lineages else None

    def knows(self, rank: int, incarnation: int) -> bool:
        """Whether a life was opened."""
        return incarnation in self._lineages.get(rank, ())

    def life(self, rank: int, incarnation: int) -> tuple[Generation, Span]:
        """The generation of a life, and the steps that belong to it; raises KeyError if it was never opened."""
        lineage = self._lineages[rank]
        return lineage.generation(incarnation), lineage.span(incarnation)

    def meet(self, rank: int) -> bool:
        """Note that a rank is there; return whether it leads from now on in the place of another."""
        before = self.leader
        if before is None or rank < before:
            self.leader = self._assembly.leader = rank
        self._lineages.setdefault(rank, Lineage())
        return before is not None and rank < before

    def presumed(self, rank: int, step: int) -> Generation:
        """The generation of a life whose descriptor was lost: the leader's, or one that begins with what is there."""
        if self.leader is not None and rank != self.leader:
            leader = self._lineages[self.leader]
            generation = leader.generation(leader.newest or 0)
            if generation.start <= step:
                return generation
        return Generation(step, 1, 1)

    def open(self, rank: int, incarnation: int, generation: Generation, received_at: float | None) -> Opening:
        """Begin a life of a rank that was met."""
        lineage = self._lineages[rank]
        before = lineage.newest
        superseded = lineage.open(incarnation, generation)
        newest = before is None or incarnation > before
        if newest:
            self._superseded.heard(rank)
            self._attendance.opened(rank, incarnation, generation, received_at)
            if rank == self.leader:
                self._assembly.generation = generation
        undone = []
        if superseded is not None:
            self._assembly.discard(rank, superseded)
            if rank == self.leader:
                # Others may be ahead in a generation that the leader has not begun yet: that waits for it.
                self._assembly.supersede(superseded, {*lineage.lives.values()} - {generation})
            else:
                undone = self._added_up(lineage, superseded)
        return Opening(before is None, newest, superseded, undone)

    def take(self, rank: int, incarnation: int, reading: Reading, received_at: float | None) -> Part | None:
        """Take a sample; return what the parts of its step add up to, if with it all are there."""
        lineage = self._lineages[rank]
        generation, span = self.life(rank, incarnation)
        if incarnation == lineage.newest:
            self._superseded.heard(rank)
        elif reading.step >= span.stop:
            self._superseded.add(rank, incarnation, lineage.newest or 0, reading.step, received_at)
        whole = part = None
        if generation.ranks > 1 and reading.step >= span.start:
            self._assembly.passed(rank, generation, reading.step)
            part, reach = part_of(reading), self._reach(generation)
            in_reach = reach is None or reading.step in reach  # None: the leader has not begun this generation yet
            if part is not None and in_reach and reading.step in span:
                whole = self._assembly.add(reading.step, rank, generation, part)
        if incarnation == lineage.newest:
            interval = None if reading.status is None else reading.status[1]
            self._attendance.heard(rank, reading.step, interval, received_at, part=part is not None)
        return whole

    def view(self) -> RanksView | None:
        """Who contributes and who does not; None before anyone was heard of."""
        return self._attendance.view()

    def flags(self) -> dict[str, tuple[int, str] | None]:
        """First step and reason of what is wrong with the ranks, by detector."""
        return {
            SUPERSEDED_SAMPLES.name: self._superseded.flag(self._thresholds.superseded_samples),
            MISSING_RANK.name: self._attendance.flag(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything known of the ranks, as plain values and arrays."""
        return {
            "lineages": {
                str(rank): [[incarnation, list(generation)] for incarnation, generation in lineage.lives.items()]
                for rank, lineage in self._lineages.items()
            },
            "attendance": self._attendance.state_dict(),
            "assembly": self._assembly.state_dict(),
            "superseded": self._superseded.state_dict(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], thresholds: Thresholds) -> Ranks:
        """The ranks that `state_dict` described."""
        ranks = cls(thresholds)
        for rank, lives in state["lineages"].items():
            ranks._lineages[int(rank)] = Lineage({life: Generation(*generation) for life, generation in lives})
        ranks.leader = min(ranks._lineages, default=None)
        ranks._attendance = Attendance.from_state(state["attendance"], thresholds.missing_rank)
        ranks._assembly = Assembly.from_state(state["assembly"], ranks._attendance.standings)
        ranks._superseded = Superseded.from_state(state["superseded"])
        return ranks

    def _reach(self, generation: Generation) -> Span | None:
        """The steps that the leader has in a generation; None if it has not begun it."""
        return None if self.leader is None else self._lineages[self.leader].reach(generation)

    def _added_up(self, lineage: Lineage, span: Span) -> list[Span]:
        """The steps of a span at which a rank of this lineage was of the leader's generation, of a sharded model."""
        shared = {generation for generation in lineage.lives.values() if generation.ranks > 1}
        reaches = [reach for generation in shared if (reach := self._reach(generation)) is not None]
        both = [Span(max(reach.start, span.start), min(reach.stop, span.stop)) for reach in reaches]
        return [part for part in both if part.start < part.stop]
