"""The state of one run: a pure function of its log records, kept up to date one record at a time."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from topowatch_monitor.detect import ANALYSIS_FAILED
from topowatch_monitor.engine.assembly import PARTIAL, Part
from topowatch_monitor.engine.failures import Failures
from topowatch_monitor.engine.lineage import generation_of
from topowatch_monitor.engine.ranks import Ranks
from topowatch_monitor.engine.reading import Message, Reading, parse, read_item, read_sample, seconds, step_of
from topowatch_monitor.engine.routing import hash_of
from topowatch_monitor.engine.times import Times
from topowatch_monitor.engine.told import RunSettings, Told
from topowatch_monitor.engine.view import no_class, no_forecast
from topowatch_protos.v1 import log_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from topowatch_monitor.detect import History
    from topowatch_monitor.engine.lineage import Generation
    from topowatch_monitor.engine.path_state import PathState
    from topowatch_monitor.engine.view import Flag, RunView
    from topowatch_protos.v1 import sample_pb2

log = logging.getLogger("topowatch.engine")

NOT_CLASSIFIED = "paths are compared once their group has enough ended runs"
NOT_FORECAST = "no forecast has been made for this run"


class RunState:
    """One run as its log records tell it. The same records give the same state, wherever and however often applied.

    A job that rolls back opens a new incarnation, which supersedes the samples from its start step on. Ranks send
    their own samples; the lowest leads: scalars, predictions and the end of the run are its own. Of a sharded model
    sketches and norms are added up, at the steps at which all parts are there.

    Args:
        tenant: first part of the run's key.
        group: second part.
        run: third part.
        settings: how much is looked at.

    Attributes:
        told: what the leader tells.
    """

    def __init__(self, tenant: str, group: str, run: str, settings: RunSettings | None = None) -> None:
        self._key = (tenant, group, run)
        self._settings = _in_phase(settings or RunSettings(), self._key)
        self._ranks = Ranks(self._settings.thresholds)
        self._failures = Failures()
        self._samples = self._dropped = self._rejected = 0
        self._times = Times()
        self.told = Told(self._settings)

    @property
    def key(self) -> tuple[str, str, str]:
        """Tenant, group and run."""
        return self._key

    @property
    def samples(self) -> int:
        """Stored samples of all ranks and incarnations."""
        return self._samples

    @property
    def ended(self) -> bool:
        """Whether the newest life of the lowest rank has ended."""
        return self.told.ended

    @property
    def path(self) -> PathState:
        """The path of the weights."""
        return self.told.path

    @property
    def representation(self) -> PathState:
        """The path of the predictions on the probes."""
        return self.told.probed.predictions

    @property
    def history(self) -> History:
        """The scalars of the run."""
        return self.told.history

    @property
    def step(self) -> int | None:
        """The latest step of the leader; after a rewind, the one before the step that it went back to."""
        return self.told.step

    def apply(self, kind: int, payload: bytes) -> bool:
        """Take in a log record of this run; one that cannot be decoded is counted as rejected.

        Returns:
            Whether it was taken in whole; see `apply_message`.
        """
        try:
            message = parse(kind, payload)
        except DecodeError:
            self._rejected += 1
            return False
        return message is None or self.apply_message(message)

    def apply_message(self, message: Message) -> bool:
        """Take in a parsed log record of this run.

        It is in the log for good, so whatever it makes go wrong must end here, or it would do so at every start: it is
        told by a flag, and the run goes on with the next message.

        Returns:
            Whether it was taken in whole.
        """
        try:
            return self._apply(message)
        except MemoryError:
            raise  # says nothing of the message: the shard is lost, and is made again elsewhere
        except Exception as error:  # noqa: BLE001 - what a message may do to the analysis cannot be foreseen
            self._fail(message, error)
            return False

    def view(self) -> RunView:
        """What is known of the run, without the clock."""
        tenant, group, run = self._key
        told, latest = self.told, self.history.latest
        overhead, interval, coverage = told.status or (None, None, None)
        return {
            "tenant": tenant,
            "group": group,
            "run": run,
            "labels": dict(told.labels),
            "incarnation": self._ranks.newest(self._ranks.leader),
            "step": told.step,
            "samples": self._samples,
            "dropped": self._dropped,
            "rejected": self._rejected,
            "superseded": self._ranks.superseded,
            "incomplete": self._ranks.incomplete,
            "ranks": self._ranks.view(),
            "state": "ended" if told.ended else "live",
            "started_at": self._times.started_at,
            "last_received_at": self._times.received_at,
            "longest_pause": self._times.longest_pause,
            "results": None if told.results is None else dict(told.results),
            "loss": latest.get("loss"),
            "probe_loss": latest.get("probe_loss"),
            "scalars": latest,
            "overhead_ratio": overhead,
            "interval": interval,
            "coverage": coverage,
            "path": told.path.view(elsewhere=self._ranks.refused),
            "representation": self.representation.view() if self.representation.points else None,
            "loss_path": told.probed.losses.view(),
            **told.terrain.view(latest),
            "flags": self._flags(),
            "events": told.events.view(),
            "minimum_unstable": told.judgement.minimum_unstable,
            "instability_score": told.judgement.score,
            "path_class": no_class(NOT_CLASSIFIED),
            "forecast": no_forecast(NOT_FORECAST),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that the state is, as plain values and arrays."""
        return {
            "key": list(self._key),
            "ranks": self._ranks.state_dict(),
            "told": self.told.state_dict(),
            "failures": self._failures.state_dict(),
            "counts": [self._samples, self._dropped, self._rejected],
            "times": self._times.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], settings: RunSettings | None = None) -> RunState:
        """The run that `state_dict` described."""
        tenant, group, name = state["key"]
        run = cls(tenant, group, name, settings)
        run._ranks = Ranks.from_state(state["ranks"], run._settings.thresholds)
        run.told = Told.from_state(state["told"], run._settings)
        run._failures = Failures.from_state(state["failures"])
        run._samples, run._dropped, run._rejected = state["counts"]
        run._times = Times(*state["times"])
        return run

    # Messages

    def _apply(self, message: Message) -> bool:
        if isinstance(message, log_pb2.RunOpened):
            self._open(message)
        elif isinstance(message, log_pb2.StoredItem):
            return self._store(message)
        elif isinstance(message, log_pb2.Forecast):
            if self.told.step is not None and message.step <= self.told.step:  # else of a life that was superseded
                self.told.forecasts.add(message)
        else:
            self._rejected += len(message.seqs)
            self._times.heard(seconds(message.received_at))
        return True

    def _fail(self, message: Message, error: Exception) -> None:
        """Note that a message could not be taken in. Of many, those numbered by a power of two are logged."""
        told = step_of(message)
        step = (self.step or 0) if told is None else told
        self._failures.add(step, error)
        self._note(step)
        count = self._failures.count
        if count.bit_count() == 1:
            log.error("failure %d of the analysis of run %s", count, "/".join(self._key), exc_info=error)

    # Lives

    def _open(self, opened: log_pb2.RunOpened) -> None:
        descriptor = opened.descriptor
        rank, incarnation = descriptor.rank, descriptor.incarnation
        self._meet(rank)
        if rank == self._ranks.leader and incarnation >= (self._ranks.newest(rank) or 0):
            self.told.describe(descriptor)
        if self._ranks.knows(rank, incarnation):
            return  # sent again after UNKNOWN_RUN, or repeated at the head of a log segment
        received_at = seconds(opened.received_at)
        self._times.began(seconds(descriptor.started_at))
        self._times.heard(received_at)
        self._enter(rank, incarnation, generation_of(descriptor), received_at)

    def _meet(self, rank: int) -> None:
        if self._ranks.meet(rank):
            self.told = Told(self._settings)  # what was told so far was not the leader's word

    def _enter(self, rank: int, incarnation: int, generation: Generation, received_at: float | None) -> None:
        """Begin a life of a rank and drop the samples that it supersedes."""
        opening = self._ranks.open(rank, incarnation, generation, received_at)
        for span in opening.undone:
            self.told.undo(span)
        if rank != self._ranks.leader:
            return
        if opening.first:
            self.history.resumed = generation.start > 0
        if opening.superseded is not None:
            self.told.supersede(opening.superseded)
        if opening.newest:
            self._times.sampled_at = None
            self._failures.discard(generation.start)
            self.told.rewind(generation.start)
            self._note(generation.start)

    # Items

    def _store(self, stored: log_pb2.StoredItem) -> bool:
        received_at = seconds(stored.received_at)
        self._times.heard(received_at)
        try:
            item = read_item(stored.item)
            reading = read_sample(item.sample) if item.HasField("sample") else None
        except (DecodeError, ValueError):
            # Ingest has validated what it stored, so this is damage; it is counted and does no harm to the rest.
            self._rejected += 1
            return False
        if reading is not None:
            self._samples += 1
            self._take(stored.rank, stored.incarnation, reading, received_at)
        elif item.HasField("end"):
            self._end(stored, item.end)
        else:
            self._dropped += stored.newly_dropped
        return True

    def _end(self, stored: log_pb2.StoredItem, end: sample_pb2.RunEnd) -> None:
        if stored.rank == self._ranks.leader and stored.incarnation == self._ranks.newest(stored.rank):
            self.told.end(end.results)

    def _take(self, rank: int, incarnation: int, reading: Reading, received_at: float | None) -> None:
        if not self._ranks.knows(rank, incarnation):  # its descriptor was lost
            self._meet(rank)
            self._enter(rank, incarnation, self._ranks.presumed(rank, reading.step), received_at)
        generation, span = self._ranks.life(rank, incarnation)
        if reading.step < span.start:
            self.path.ignored += 1  # it contradicts its own descriptor
        whole = self._ranks.take(rank, incarnation, reading, received_at)
        leads, sharded = rank == self._ranks.leader, generation.ranks > 1
        if leads and not sharded and reading.step in span:
            whole = Part(reading.weights, {})
        if whole is not None:
            self.told.add(reading.step, whole)
        if leads:
            on_path = self.told.take(span, reading, PARTIAL if sharded else ())
            if on_path and incarnation == self._ranks.newest(rank):
                self.told.status = reading.status or self.told.status
                self._times.sampled(reading.time if reading.time is not None else received_at)
        elif whole is not None:
            self.told.judgement.judge(self.history, reading.step)
        self._note(reading.step)

    # Views

    def _flags(self) -> list[Flag]:
        return self.told.judgement.views({**self._ranks.flags(), ANALYSIS_FAILED.name: self._failures.flag()})

    def _note(self, step: int) -> None:
        self.told.events.note(step, self._flags(), self.told.judgement.minimum_unstable)


def _in_phase(settings: RunSettings, key: tuple[str, str, str]) -> RunSettings:
    """The settings of a run: what takes long is computed at other samples than that of its siblings."""
    return replace(settings, path=replace(settings.path, phase=hash_of(key) / 2**32))
