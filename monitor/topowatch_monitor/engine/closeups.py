"""What is computed only when somebody looks: the map of a group's paths, the barcodes and curves of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from topowatch_monitor.engine.group_map import MOST_POINTS, MOST_RUNS, map_of
from topowatch_monitor.engine.look import has_room
from topowatch_monitor.engine.pool import JobFailedError, JobLostError, ShardLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from topowatch_monitor.engine.dispatcher import Dispatcher
    from topowatch_monitor.engine.group_map import GroupMap
    from topowatch_monitor.engine.look import CloseUp, Subject
    from topowatch_monitor.engine.pool import Call, Job, ShardPool

MOST_ASKED = 8  # runs at a time, so that what the log brings is not kept waiting
LOST = "the process that has it was lost and is being replaced: try again in some seconds"


@dataclass(frozen=True)
class _Drawing:
    subject: Subject
    job: Job
    deadline: float


class CloseUps:
    """Draws what is looked at, one group at a time, tenants in turn, and never waits for it.

    Args:
        dispatcher: of the shards.
        pool: where jobs run.
        timeout: seconds that a map may take, or the shape of a run.
        draw: the job; see `map_of`.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        pool: ShardPool,
        *,
        timeout: float,
        draw: Callable[..., GroupMap] = map_of,
    ) -> None:
        self._dispatcher = dispatcher
        self._pool = pool
        self._timeout = timeout
        self._draw = draw
        self._waiting: dict[Subject, None] = {}  # a set that keeps the order
        self._asked: dict[Subject, tuple[list[Call], float]] = {}  # and when that has taken too long
        self._drawing: _Drawing | None = None
        self._turns: dict[str, int] = {}  # number of the latest turn of each tenant
        self._answers: list[CloseUp] = []

    def want(self, subjects: Iterable[Subject]) -> None:
        """Take in what somebody looks at."""
        for subject in subjects:
            drawn = self._drawing is not None and self._drawing.subject == subject
            if not drawn and subject not in self._asked and has_room(self._waiting, subject):
                self._waiting[subject] = None

    @property
    def busy(self) -> bool:
        """Whether something is being drawn."""
        return bool(self._asked) or self._drawing is not None

    def tick(self, now: float, *, caught_up: bool) -> None:
        """Begin and end what can be.

        Args:
            now: seconds of the clock.
            caught_up: whether the shards are at the log's end, or near it; before, nothing is begun.
        """
        for subject, (calls, deadline) in list(self._asked.items()):
            if len(self._pool.ready(calls, 0.0)) == len(calls):
                del self._asked[subject]
                self._take(subject, calls)
            elif now >= deadline:  # a carrier whose network is cut answers no more
                del self._asked[subject]
                self._answer(subject, None, LOST)
        if self._drawing is not None:
            self._watch(self._drawing, now)
        if not caught_up:
            return
        for subject in list(self._waiting):
            if subject.run and len(self._asked) < MOST_ASKED:
                del self._waiting[subject]
                self._asked[subject] = self._dispatcher.ask("shape", tuple(subject)), now + self._timeout
        maps = [subject for subject in self._waiting if not subject.run]
        if maps and self._drawing is None:
            subject = min(maps, key=lambda each: self._turns.get(each.tenant, 0))
            del self._waiting[subject]
            self._turns[subject.tenant] = max(self._turns.values(), default=0) + 1
            self._begin(subject, now)

    def take_answers(self) -> list[CloseUp]:
        """Return what was drawn since the last call."""
        answers, self._answers = self._answers, []
        return answers

    def close(self) -> None:
        """End what is under way."""
        if self._drawing is not None:
            self._pool.cancel(self._drawing.job)
            self._drawing = None

    def _take(self, subject: Subject, calls: list[Call]) -> None:
        try:
            found = [self._pool.result(call, self._timeout) for call in calls]
        except ShardLostError:
            self._dispatcher.check()
            self._answer(subject, None, LOST)
        else:
            shape = next((each for each in found if each is not None), None)
            if isinstance(shape, str):
                self._answer(subject, None, shape)
            else:
                self._answer(subject, shape)

    def _begin(self, subject: Subject, now: float) -> None:
        group = subject.tenant, subject.group
        try:
            job = self._pool.submit(self._draw, *self._dispatcher.ask("walks", group, MOST_RUNS, MOST_POINTS))
        except JobLostError as error:
            self._answer(subject, None, f"its map could not be drawn: {error}")
        else:
            self._drawing = _Drawing(subject, job, now + self._timeout)

    def _watch(self, drawing: _Drawing, now: float) -> None:
        if not self._pool.ended(drawing.job):
            if now >= drawing.deadline:
                self._drawing = None
                self._pool.cancel(drawing.job)
                self._answer(drawing.subject, None, f"its map took over {self._timeout:g} s and was dropped")
            return
        self._drawing = None
        try:
            self._answer(drawing.subject, self._pool.outcome(drawing.job))
        except JobLostError:
            self._dispatcher.check()  # what died may have been a carrier that has nothing else to do
            self._answer(drawing.subject, None, LOST)
        except JobFailedError as error:
            self._answer(drawing.subject, None, f"its map failed ({error}); this is a fault of topowatch")

    def _answer(self, subject: Subject, answer: Any, problem: str = "") -> None:
        self._answers.append({"subject": list(subject), "answer": answer, "problem": problem})
