"""Who of a job's ranks sends: how far each has come, and which of those that are needed are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from topowatch_monitor.detect.missing_rank import MissingRankThresholds, detect, is_missing
from topowatch_monitor.engine.lineage import NEVER, Generation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from topowatch_monitor.engine.view import RanksView


class Standing(NamedTuple):
    """How far the newest life of a rank has come.

    Attributes:
        incarnation: of that life.
        generation: of that life.
        step: of its latest sample; one below its start before the first.
        part: step of the latest sample that brought a part of the model; likewise.
        interval: steps between samples, as told with the latest; 1 while unknown.
        heard_at: Unix seconds at which that was stored.
    """

    incarnation: int
    generation: Generation
    step: int
    part: int
    interval: int
    heard_at: float | None


class Attendance:
    """The ranks of a sharded run.

    Only the newest generation counts, so that no rank of an older, larger world is missed. The log alone decides: time
    is when samples were stored. All ranks are looked at once an interval, which costs each sample a constant time.

    Args:
        thresholds: when a rank counts as missing.

    Attributes:
        standings: by rank.
    """

    def __init__(self, thresholds: MissingRankThresholds) -> None:
        self.standings: dict[int, Standing] = {}
        self._thresholds = thresholds
        self._generation: Generation | None = None  # the newest
        self._missing: dict[int, int] = {}  # latest step by rank
        self._unheard = False  # whether ranks that have never been heard of count as missing
        self._begun_at: float | None = None  # when the newest generation was first heard of
        self._look_at: int = NEVER  # the step at which all are looked at again

    def opened(self, rank: int, incarnation: int, generation: Generation, at: float | None) -> None:
        """Note that a rank has begun its newest life."""
        before = generation.start - 1
        self.standings[rank] = Standing(incarnation, generation, before, before, 1, at)
        if generation != self._generation or self._unheard or rank in self._missing:
            self._look(at)

    def heard(self, rank: int, step: int, interval: int | None, at: float | None, *, part: bool) -> None:
        """Note a sample of a rank's newest life, and whether it brought a part of the model."""
        before = self.standings[rank]
        latest = max(before.step, step)
        self.standings[rank] = before._replace(
            step=latest, part=latest if part else before.part, interval=interval or before.interval, heard_at=at
        )
        if step >= self._look_at or rank in self._missing:
            self._look(at)

    def view(self) -> RanksView | None:
        """Who contributes and who does not; None before anyone was heard of."""
        if self._generation is None:
            return None
        contributing = self._generation.ranks
        heard = min(contributing, len(self._members(self._generation)))
        return {"contributing": contributing, "heard": heard, "missing": sorted(self._missing)}

    def flag(self) -> tuple[int, str] | None:
        """First step and reason; None while no rank is missing."""
        if self._generation is None or not (self._missing or self._unheard):
            return None
        contributing, start = self._generation.ranks, self._generation.start
        heard = len(self._members(self._generation))
        unheard = contributing - heard if self._unheard else 0
        reason = detect(contributing, heard, self._missing, unheard, start)
        if reason is None:
            return None
        if unheard and (apart := self._apart(self._generation)) is not None:
            began = self.standings[apart].generation
            reason += f"; rank {apart} began at step {began.start}, as one of {began.ranks} that contribute"
        return min([*self._missing.values(), *([start] if unheard else [])]), reason

    def state_dict(self) -> dict[str, Any]:
        """Everything noted, as plain values."""
        return {
            "standings": {str(rank): list(each) for rank, each in self.standings.items()},
            "generation": None if self._generation is None else list(self._generation),
            "missing": {str(rank): step for rank, step in self._missing.items()},
            "unheard": self._unheard,
            "begun_at": self._begun_at,
            "look_at": self._look_at,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], thresholds: MissingRankThresholds) -> Attendance:
        """The ranks that `state_dict` described."""
        attendance = cls(thresholds)
        for rank, (incarnation, generation, *rest) in state["standings"].items():
            attendance.standings[int(rank)] = Standing(incarnation, Generation(*generation), *rest)
        attendance._generation = None if state["generation"] is None else Generation(*state["generation"])
        attendance._missing = {int(rank): step for rank, step in state["missing"].items()}
        attendance._unheard = state["unheard"]
        attendance._begun_at = state["begun_at"]
        attendance._look_at = state["look_at"]
        return attendance

    def _members(self, generation: Generation) -> dict[int, Standing]:
        """The ranks of a generation; of more than contribute, those whose lives are newest."""
        members = [(each.incarnation, rank) for rank, each in self.standings.items() if each.generation == generation]
        chosen = sorted(members, reverse=True)[: generation.ranks]
        return {rank: self.standings[rank] for _, rank in chosen}

    def _apart(self, generation: Generation) -> int | None:
        """The rank outside of a generation whose life is newest; None if there is none."""
        apart = [(each.incarnation, rank) for rank, each in self.standings.items() if each.generation != generation]
        return max(apart)[1] if apart else None

    def _newest_generation(self) -> Generation:
        """The generation of the newest life; one that takes itself for the whole model counts only if it leads."""
        leader = min(self.standings)
        lives = (each for rank, each in self.standings.items() if each.generation.ranks > 1 or rank == leader)
        return max(lives, key=lambda each: each.incarnation).generation

    def _look(self, now: float | None) -> None:
        """Look at all ranks."""
        generation = self._newest_generation()
        if generation != self._generation:
            self._generation, self._begun_at = generation, now
        if generation.ranks <= 1:
            self._missing, self._unheard, self._look_at = {}, False, NEVER
            return
        members = self._members(generation)
        foremost = max(each.step for each in members.values())
        interval = max(each.interval for each in members.values())
        self._look_at = foremost + interval

        def missing(step: int, since: float | None, active: bool) -> bool:
            silence = None if since is None or now is None else now - since
            return is_missing(foremost - step, interval, silence, active, self._thresholds)

        self._missing = {
            rank: max(0, each.step)
            for rank, each in members.items()
            if missing(each.step, each.heard_at, rank in self._missing)
        }
        lacking = len(members) < generation.ranks
        self._unheard = lacking and missing(generation.start - 1, self._begun_at, self._unheard)
