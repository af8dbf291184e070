"""The state of one run: a pure function of its log records, kept up to date one record at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from topowatch_monitor.detect import DETECTORS, History, Thresholds, detect_all
from topowatch_monitor.detect.level import was_low
from topowatch_monitor.engine.assembly import Assembly
from topowatch_monitor.engine.lineage import Lineage
from topowatch_monitor.engine.path_state import PathSettings, PathState
from topowatch_monitor.engine.reading import Message, Reading, parse, read_item, read_sample, seconds
from topowatch_protos.v1 import log_pb2, run_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from topowatch_monitor.engine.view import Flag, RunView
    from topowatch_protos.v1 import sample_pb2

# How much of the longest pause between samples is forgotten at each sample: a tenth is left of it after 230.
PAUSE_DECAY = 0.99
SEVERITY = {detector.name: detector.severity for detector in DETECTORS}
NOT_CLASSIFIED = "paths are compared once their group has enough ended runs"
NOT_FORECAST = "no forecast has been made for this run"


@dataclass(frozen=True)
class RunSettings:
    """How much of a run is looked at, and when detectors fire."""

    path: PathSettings = field(default_factory=PathSettings)
    history: int = 2048
    thresholds: Thresholds = field(default_factory=Thresholds)


class RunState:
    """One run as its log records tell it. The same records give the same state, wherever and however often applied.

    A job that rolls back opens a new incarnation, which supersedes the samples from its start step on. Ranks send
    their own samples; sketches of a sharded model are added up, scalars and predictions are those of the lowest rank.

    Args:
        tenant: first part of the run's key.
        group: second part.
        run: third part.
        settings: how much is looked at.
    """

    def __init__(self, tenant: str, group: str, run: str, settings: RunSettings | None = None) -> None:
        self._settings = settings or RunSettings()
        self._key = (tenant, group, run)
        self._ranks: dict[int, Lineage] = {}
        self._labels: dict[str, str] = {}
        self._sketch: tuple[int, int] | None = None  # dimension and seed
        self._probe_digest = b""
        self._assembly = Assembly(1)
        self._path = PathState(self._settings.path)
        self._representation = PathState(self._settings.path)
        self._history = History(self._settings.history)
        self._flags: dict[str, tuple[int, str]] = {}
        self._minimum_unstable = False
        self._step: int | None = None
        self._samples = self._dropped = self._rejected = 0
        self._ended = False
        self._results: dict[str, float] | None = None
        self._started_at: float | None = None
        self._received_at: float | None = None
        self._sampled_at: float | None = None
        self._longest_pause: float | None = None
        self._status: tuple[float, int, float] | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """Tenant, group and run."""
        return self._key

    @property
    def path(self) -> PathState:
        """The path of the weights."""
        return self._path

    @property
    def representation(self) -> PathState:
        """The path of the predictions on the probes."""
        return self._representation

    @property
    def history(self) -> History:
        """The scalars of the run."""
        return self._history

    def apply(self, kind: int, payload: bytes) -> None:
        """Take in a log record of this run; one that cannot be decoded is counted as rejected."""
        try:
            message = parse(kind, payload)
        except DecodeError:
            self._rejected += 1
            return
        if message is not None:
            self.apply_message(message)

    def apply_message(self, message: Message) -> None:
        """Take in a parsed log record of this run."""
        if isinstance(message, log_pb2.RunOpened):
            self._open(message)
        elif isinstance(message, log_pb2.StoredItem):
            self._store(message)
        else:
            self._rejected += len(message.seqs)
            self._hear(message.received_at.seconds + message.received_at.nanos * 1e-9)

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
            "incarnation": self._ranks[min(self._ranks)].newest if self._ranks else None,
            "step": self._step,
            "samples": self._samples,
            "dropped": self._dropped,
            "rejected": self._rejected,
            "state": "ended" if self._ended else "live",
            "started_at": self._started_at,
            "last_received_at": self._received_at,
            "longest_pause": self._longest_pause,
            "results": None if self._results is None else dict(self._results),
            "loss": latest.get("loss"),
            "probe_loss": latest.get("probe_loss"),
            "scalars": latest,
            "overhead_ratio": overhead,
            "interval": interval,
            "coverage": coverage,
            "path": self._path.view(),
            "representation": self._representation.view() if self._representation.points else None,
            "flags": [self._flag(name) for name in SEVERITY if name in self._flags],
            "minimum_unstable": self._minimum_unstable,
            "instability_score": None,
            "path_class": {
                "label": None,
                "p_value": None,
                "outlier": None,
                "abstained": True,
                "reason": NOT_CLASSIFIED,
            },
            "forecast": {
                "metric": None,
                "value": None,
                "lower": None,
                "upper": None,
                "abstained": True,
                "reason": NOT_FORECAST,
            },
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that the state is, as plain values and arrays."""
        return {
            "key": list(self._key),
            "ranks": {
                str(rank): [[incarnation, start] for incarnation, start in lineage.starts.items()]
                for rank, lineage in self._ranks.items()
            },
            "labels": dict(self._labels),
            "sketch": self._sketch,
            "probe_digest": self._probe_digest.hex(),
            "assembly": self._assembly.state_dict(),
            "path": self._path.state_dict(),
            "representation": self._representation.state_dict(),
            "history": self._history.state_dict(),
            "flags": {name: list(flag) for name, flag in self._flags.items()},
            "minimum_unstable": self._minimum_unstable,
            "step": self._step,
            "counts": [self._samples, self._dropped, self._rejected],
            "ended": self._ended,
            "results": self._results,
            "times": [self._started_at, self._received_at, self._sampled_at, self._longest_pause],
            "status": self._status,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], settings: RunSettings | None = None) -> RunState:
        """The run that `state_dict` described."""
        tenant, group, name = state["key"]
        run = cls(tenant, group, name, settings)
        run._ranks = {int(rank): Lineage(dict(starts)) for rank, starts in state["ranks"].items()}
        run._labels = dict(state["labels"])
        run._sketch = None if state["sketch"] is None else (state["sketch"][0], state["sketch"][1])
        run._probe_digest = bytes.fromhex(state["probe_digest"])
        run._assembly = Assembly.from_state(state["assembly"])
        run._path = PathState.from_state(state["path"])
        run._representation = PathState.from_state(state["representation"])
        run._history = History.from_state(state["history"])
        run._flags = {name: (since, reason) for name, (since, reason) in state["flags"].items()}
        run._minimum_unstable = state["minimum_unstable"]
        run._step = state["step"]
        run._samples, run._dropped, run._rejected = state["counts"]
        run._ended = state["ended"]
        run._results = state["results"]
        run._started_at, run._received_at, run._sampled_at, run._longest_pause = state["times"]
        run._status = None if state["status"] is None else tuple(state["status"])
        return run

    # Lives

    def _open(self, opened: log_pb2.RunOpened) -> None:
        descriptor = opened.descriptor
        lineage = self._ranks.setdefault(descriptor.rank, Lineage())
        known = descriptor.incarnation in lineage
        newest = lineage.newest is None or descriptor.incarnation >= lineage.newest
        if descriptor.rank == min(self._ranks) and newest:
            self._describe(descriptor)
        if known:
            return  # sent again after UNKNOWN_RUN, or repeated at the head of a log segment
        began = seconds(descriptor.started_at)
        if began is not None:
            self._started_at = began if self._started_at is None else min(self._started_at, began)
        self._hear(seconds(opened.received_at))
        self._enter(descriptor.rank, descriptor.incarnation, descriptor.start_step)

    def _enter(self, rank: int, incarnation: int, start: int) -> None:
        """Begin a life of a rank and drop the samples that it supersedes."""
        lineage = self._ranks.setdefault(rank, Lineage())
        first = lineage.newest is None
        newest = lineage.newest is None or incarnation > lineage.newest
        superseded = lineage.open(incarnation, start)
        if superseded is not None:
            self._assembly.discard(rank, superseded.start, superseded.stop)
            if rank == min(self._ranks) or self._assembly.ranks > 1:
                self._path.discard(superseded.start, superseded.stop)
        if rank != min(self._ranks):
            return
        if first:
            self._history.resumed = start > 0
        if superseded is not None:
            self._representation.discard(superseded.start, superseded.stop)
            self._history.discard(superseded.start, superseded.stop)
        if newest:
            self._ended, self._results, self._sampled_at = False, None, None
            if self._step is not None and self._step >= start:
                self._step = start - 1 if start > 0 else None
            self._flags = {name: flag for name, flag in self._flags.items() if flag[0] < start}
            self._judge_minimum()

    def _describe(self, descriptor: run_pb2.RunDescriptor) -> None:
        """Take over what the newest life of the lowest rank says of the run; what cannot be compared begins anew."""
        self._labels = dict(descriptor.labels)
        sketch = (descriptor.sketch.dimension, descriptor.sketch.seed)
        probe = descriptor.probe
        if self._sketch not in (None, sketch):
            self._path = PathState(self._settings.path)
            self._representation = PathState(self._settings.path)
        if self._probe_digest and probe.digest and probe.digest != self._probe_digest:
            self._representation = PathState(self._settings.path)
            self._history.forget("probe_loss")
        self._sketch = sketch
        self._probe_digest = probe.digest or self._probe_digest
        if probe.kind in (run_pb2.OUTPUT_KIND_LOGITS, run_pb2.OUTPUT_KIND_PROBS) and probe.outputs > 1:
            self._history.chance_loss = math.log(probe.outputs)
        ranks = max(1, descriptor.contributing_ranks)
        if ranks != self._assembly.ranks:
            self._assembly = Assembly(ranks)

    # Items

    def _store(self, stored: log_pb2.StoredItem) -> None:
        received_at = seconds(stored.received_at)
        self._hear(received_at)
        try:
            item = read_item(stored.item)
            reading = read_sample(item.sample) if item.HasField("sample") else None
        except (DecodeError, ValueError):
            # Ingest has validated what it stored, so this is damage; it is counted and does no harm to the rest.
            self._rejected += 1
            return
        if reading is not None:
            self._samples += 1
            self._take(stored.rank, stored.incarnation, reading, received_at)
        elif item.HasField("end"):
            self._end(stored, item.end)
        else:
            self._dropped += max(0, item.dropped.last_seq - item.dropped.first_seq + 1)

    def _end(self, stored: log_pb2.StoredItem, end: sample_pb2.RunEnd) -> None:
        leads = bool(self._ranks) and stored.rank == min(self._ranks)
        if leads and stored.incarnation == self._ranks[stored.rank].newest:
            self._ended = True
            self._results = dict(end.results)

    def _take(self, rank: int, incarnation: int, reading: Reading, received_at: float | None) -> None:
        if rank not in self._ranks or incarnation not in self._ranks[rank]:
            self._enter(rank, incarnation, reading.step)  # its descriptor was lost: it begins with what is there
        lineage = self._ranks[rank]
        span = lineage.span(incarnation)
        on_path = reading.step in span
        leads = rank == min(self._ranks)
        if on_path and reading.weights is not None and (leads or self._assembly.ranks > 1):
            whole = self._assembly.add(reading.step, rank, reading.weights)
            if whole is not None:
                self._extend(self._path, reading.step, whole)
        if not leads:
            return
        if on_path and reading.representation is not None:
            self._extend(self._representation, reading.step, reading.representation)
        for name, steps, values in reading.scalars:
            inside = (steps >= span.start) & (steps < span.stop)
            self._history.extend(name, steps[inside], values[inside])
        if not on_path:
            return
        if reading.probe_loss is not None:
            self._history.extend("probe_loss", [reading.step], [reading.probe_loss])
        if incarnation == lineage.newest:
            self._status = reading.status or self._status
            self._pause(reading.time if reading.time is not None else received_at)
        self._step = reading.step if self._step is None else max(self._step, reading.step)
        self._detect(reading.step)

    def _extend(self, path: PathState, step: int, point: NDArray[np.float32]) -> None:
        # An older life may have sketched otherwise; its points are not comparable.
        if self._sketch is not None and self._sketch[0] not in (0, len(point)):
            path.ignored += 1
        else:
            path.add(step, point)

    def _detect(self, step: int) -> None:
        found = detect_all(self._history, self._flags, self._settings.thresholds)
        self._history.fresh_from = max(self._history.fresh_from, step + 1)
        self._flags = {name: (self._flags.get(name, (step, ""))[0], reason) for name, reason in found.items()}
        self._judge_minimum()

    def _judge_minimum(self) -> None:
        critical = [name for name in self._flags if SEVERITY[name] == "critical"]
        lost = bool(critical) and was_low(self._history.curve, self._history.chance_loss)
        self._minimum_unstable = lost or "non_finite_loss" in critical

    def _flag(self, name: str) -> Flag:
        since, reason = self._flags[name]
        return {"detector": name, "severity": SEVERITY[name], "since_step": since, "reason": reason}

    # Times

    def _hear(self, received_at: float | None) -> None:
        if received_at is not None:
            self._received_at = received_at if self._received_at is None else max(self._received_at, received_at)

    def _pause(self, sampled_at: float | None) -> None:
        if sampled_at is None:
            return
        if self._sampled_at is not None:
            pause = max(0.0, sampled_at - self._sampled_at)
            self._longest_pause = max(pause, PAUSE_DECAY * (self._longest_pause or 0.0))
        self._sampled_at = sampled_at
