"""The state of one run: a pure function of its log records, kept up to date one record at a time."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from topowatch_monitor.detect import ANALYSIS_FAILED, History, Thresholds
from topowatch_monitor.detect.effective_rank import effective_rank
from topowatch_monitor.engine.assembly import PARTIAL, Part
from topowatch_monitor.engine.events import Events
from topowatch_monitor.engine.failures import Failures
from topowatch_monitor.engine.judgement import Judgement
from topowatch_monitor.engine.lineage import generation_of
from topowatch_monitor.engine.path_state import PathSettings, PathState
from topowatch_monitor.engine.probed import Probed
from topowatch_monitor.engine.ranks import Ranks
from topowatch_monitor.engine.reading import Message, Reading, parse, read_item, read_sample, seconds, step_of
from topowatch_monitor.engine.terrain import Terrain
from topowatch_monitor.engine.times import Times
from topowatch_monitor.engine.view import no_class, no_forecast
from topowatch_protos.v1 import log_pb2, run_pb2

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from topowatch_monitor.engine.lineage import Generation, Span
    from topowatch_monitor.engine.view import Flag, RunView
    from topowatch_protos.v1 import sample_pb2

log = logging.getLogger("topowatch.engine")

NOT_CLASSIFIED = "paths are compared once their group has enough ended runs"
NOT_FORECAST = "no forecast has been made for this run"


@dataclass(frozen=True)
class RunSettings:
    """How much of a run is looked at, and when detectors fire."""

    path: PathSettings = field(default_factory=PathSettings)
    history: int = 2048
    trace_points: int = 256
    thresholds: Thresholds = field(default_factory=Thresholds)


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
    """

    def __init__(self, tenant: str, group: str, run: str, settings: RunSettings | None = None) -> None:
        self._settings = settings or RunSettings()
        self._key = (tenant, group, run)
        self._ranks = Ranks(self._settings.thresholds)
        self._failures = Failures()
        self._samples = self._dropped = self._rejected = 0
        self._times = Times()
        self._begin()

    def _begin(self) -> None:
        """Know nothing yet of what the leader tells."""
        self._labels: dict[str, str] = {}
        self._path = PathState(self._settings.path)
        self._probed = Probed(self._settings.path, self._settings.trace_points)
        self._history = History(self._settings.history)
        self._terrain = Terrain()
        self._judgement = Judgement(self._settings.thresholds)
        self._events = Events()
        self._step: int | None = None
        self._ended = False
        self._results: dict[str, float] | None = None
        self._status: tuple[float, int, float] | None = None

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
        return self._ended

    @property
    def path(self) -> PathState:
        """The path of the weights."""
        return self._path

    @property
    def representation(self) -> PathState:
        """The path of the predictions on the probes."""
        return self._probed.predictions

    @property
    def probed(self) -> Probed:
        """All that the probes show."""
        return self._probed

    @property
    def history(self) -> History:
        """The scalars of the run."""
        return self._history

    @property
    def events(self) -> Events:
        """When flags went on and off."""
        return self._events

    @property
    def step(self) -> int | None:
        """The latest step of the leader; after a rewind, the one before the step that it went back to."""
        return self._step

    @property
    def judgement(self) -> Judgement:
        """What the detectors say."""
        return self._judgement

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
        latest = self._history.latest
        overhead, interval, coverage = self._status or (None, None, None)
        return {
            "tenant": tenant,
            "group": group,
            "run": run,
            "labels": dict(self._labels),
            "incarnation": self._ranks.newest(self._ranks.leader),
            "step": self._step,
            "samples": self._samples,
            "dropped": self._dropped,
            "rejected": self._rejected,
            "superseded": self._ranks.superseded,
            "incomplete": self._ranks.incomplete,
            "ranks": self._ranks.view(),
            "state": "ended" if self._ended else "live",
            "started_at": self._times.started_at,
            "last_received_at": self._times.received_at,
            "longest_pause": self._times.longest_pause,
            "results": None if self._results is None else dict(self._results),
            "loss": latest.get("loss"),
            "probe_loss": latest.get("probe_loss"),
            "scalars": latest,
            "overhead_ratio": overhead,
            "interval": interval,
            "coverage": coverage,
            "path": self._path.view(elsewhere=self._ranks.refused),
            "representation": self.representation.view() if self.representation.points else None,
            "loss_path": self._probed.losses.view(),
            **self._terrain.view(latest),
            "flags": self._flags(),
            "events": self._events.view(),
            "minimum_unstable": self._judgement.minimum_unstable,
            "instability_score": self._judgement.score,
            "path_class": no_class(NOT_CLASSIFIED),
            "forecast": no_forecast(NOT_FORECAST),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that the state is, as plain values and arrays."""
        return {
            "key": list(self._key),
            "ranks": self._ranks.state_dict(),
            "labels": dict(self._labels),
            "path": self._path.state_dict(),
            "probed": self._probed.state_dict(),
            "history": self._history.state_dict(),
            "terrain": self._terrain.state_dict(),
            "judgement": self._judgement.state_dict(),
            "events": self._events.state_dict(),
            "failures": self._failures.state_dict(),
            "step": self._step,
            "counts": [self._samples, self._dropped, self._rejected],
            "ended": self._ended,
            "results": self._results,
            "times": self._times.state(),
            "status": self._status,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], settings: RunSettings | None = None) -> RunState:
        """The run that `state_dict` described."""
        tenant, group, name = state["key"]
        run = cls(tenant, group, name, settings)
        run._ranks = Ranks.from_state(state["ranks"], run._settings.thresholds)
        run._labels = dict(state["labels"])
        run._path = PathState.from_state(state["path"])
        run._probed = Probed.from_state(state["probed"], run._settings.path, run._settings.trace_points)
        run._history = History.from_state(state["history"])
        run._terrain = Terrain.from_state(state["terrain"])
        run._judgement = Judgement.from_state(state["judgement"], run._settings.thresholds)
        run._events = Events.from_state(state["events"])
        run._failures = Failures.from_state(state["failures"])
        run._step = state["step"]
        run._samples, run._dropped, run._rejected = state["counts"]
        run._ended = state["ended"]
        run._results = state["results"]
        run._times = Times(*state["times"])
        run._status = None if state["status"] is None else tuple(state["status"])
        return run

    # Messages

    def _apply(self, message: Message) -> bool:
        if isinstance(message, log_pb2.RunOpened):
            self._open(message)
        elif isinstance(message, log_pb2.StoredItem):
            return self._store(message)
        else:
            self._rejected += len(message.seqs)
            self._times.heard(seconds(message.received_at))
        return True

    def _fail(self, message: Message, error: Exception) -> None:
        """Note that a message could not be taken in. Of many, those numbered by a power of two are logged."""
        told = step_of(message)
        step = (self._step or 0) if told is None else told
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
            self._describe(descriptor)
        if self._ranks.knows(rank, incarnation):
            return  # sent again after UNKNOWN_RUN, or repeated at the head of a log segment
        received_at = seconds(opened.received_at)
        self._times.began(seconds(descriptor.started_at))
        self._times.heard(received_at)
        self._enter(rank, incarnation, generation_of(descriptor), received_at)

    def _meet(self, rank: int) -> None:
        if self._ranks.meet(rank):
            self._begin()  # what was told so far was not the leader's word

    def _enter(self, rank: int, incarnation: int, generation: Generation, received_at: float | None) -> None:
        """Begin a life of a rank and drop the samples that it supersedes."""
        opening = self._ranks.open(rank, incarnation, generation, received_at)
        for span in opening.undone:
            self._path.discard(*span)
            self._history.discard(*span, names=PARTIAL)
        if rank != self._ranks.leader:
            return
        start = generation.start
        if opening.first:
            self._history.resumed = start > 0
        if opening.superseded is not None:
            self._path.discard(*opening.superseded)
            self._probed.discard(*opening.superseded)
            self._terrain.discard(*opening.superseded)
            self._history.discard(*opening.superseded)
        if opening.newest:
            self._ended, self._results, self._times.sampled_at = False, None, None
            if self._step is not None and self._step >= start:
                self._step = start - 1 if start > 0 else None
            self._judgement.rewind(self._history, start)
            self._failures.discard(start)
            self._events.supersede(start)
            self._note(start)

    def _describe(self, descriptor: run_pb2.RunDescriptor) -> None:
        """Take over what the newest life of the lowest rank says of the run; what cannot be compared begins anew.

        Sketches always can: ingest refuses a life whose sketches are made otherwise than those of the run.
        """
        self._labels = dict(descriptor.labels)
        probe = descriptor.probe
        if self._probed.show(probe.digest):
            self._history.forget("probe_loss")
            self._history.forget("representation_rank")
        if probe.kind in (run_pb2.OUTPUT_KIND_LOGITS, run_pb2.OUTPUT_KIND_PROBS) and probe.outputs > 1:
            self._history.chance_loss = math.log(probe.outputs)

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
            self._ended = True
            self._results = dict(end.results)

    def _take(self, rank: int, incarnation: int, reading: Reading, received_at: float | None) -> None:
        if not self._ranks.knows(rank, incarnation):  # its descriptor was lost
            self._meet(rank)
            self._enter(rank, incarnation, self._ranks.presumed(rank, reading.step), received_at)
        generation, span = self._ranks.life(rank, incarnation)
        if reading.step < span.start:
            self._path.ignored += 1  # it contradicts its own descriptor
        whole = self._ranks.take(rank, incarnation, reading, received_at)
        leads, sharded = rank == self._ranks.leader, generation.ranks > 1
        if leads and not sharded and reading.step in span:
            whole = Part(reading.weights, {})
        if whole is not None:
            if whole.weights is not None:
                before = self._path.loop
                self._path.add(reading.step, whole.weights)
                if self._path.loop is not None and self._path.loop != before:
                    self._history.extend("path_loop", [self._path.loop[0]], [self._path.loop[1]])
            for name, value in whole.scalars.items():
                self._history.extend(name, [reading.step], [value])
        if leads:
            self._lead(incarnation, span, reading, PARTIAL if sharded else (), received_at)
        elif whole is not None:
            self._judgement.judge(self._history, reading.step)
        self._note(reading.step)

    def _lead(
        self, incarnation: int, span: Span, reading: Reading, partial: Container[str], received_at: float | None
    ) -> None:
        """Take what the leader says of the run as a whole, without the scalars that are `partial`.

        Where some are, the statistics of layers are of its own part as well, and say nothing of the whole.
        """
        on_path = reading.step in span
        if on_path and reading.representation is not None:
            self._probed.predicted(reading.step, reading.representation)
        for name, steps, values in reading.scalars:
            if name not in partial:
                inside = (steps >= span.start) & (steps < span.stop)
                self._history.extend(name, steps[inside], values[inside])
        if not on_path:
            return
        if not partial and reading.layers is not None:
            self._history.layers.add(reading.step, *reading.layers)
        if reading.frames is not None:
            self._history.extend("representation_rank", [reading.step], [effective_rank(reading.frames)])
        if reading.probe_losses is not None and reading.probe_loss is not None:
            self._probed.losses.add(reading.step, reading.probe_losses)
            self._history.extend("probe_loss", [reading.step], [reading.probe_loss])
        self._terrain.take(reading, self._history)
        if incarnation == self._ranks.newest(self._ranks.leader):
            self._status = reading.status or self._status
            self._times.sampled(reading.time if reading.time is not None else received_at)
        self._step = reading.step if self._step is None else max(self._step, reading.step)
        self._judgement.judge(self._history, reading.step)

    # Views

    def _flags(self) -> list[Flag]:
        return self._judgement.views({**self._ranks.flags(), ANALYSIS_FAILED.name: self._failures.flag()})

    def _note(self, step: int) -> None:
        self._events.note(step, self._flags(), self._judgement.minimum_unstable)
