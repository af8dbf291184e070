"""What the leading rank tells of a run, and what follows from it: its paths, scalars, flags, milestones and its end."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from topowatch_monitor.detect import History, Thresholds
from topowatch_monitor.detect.effective_rank import effective_rank
from topowatch_monitor.engine.assembly import PARTIAL
from topowatch_monitor.engine.events import Events
from topowatch_monitor.engine.features import features_of
from topowatch_monitor.engine.judgement import Judgement
from topowatch_monitor.engine.made_forecasts import MadeForecasts
from topowatch_monitor.engine.milestones import Milestone, Milestones
from topowatch_monitor.engine.path_state import PathSettings, PathState
from topowatch_monitor.engine.probed import Probed
from topowatch_monitor.engine.results import results_of
from topowatch_monitor.engine.terrain import Terrain
from topowatch_monitor.forecast.table import raw_row
from topowatch_protos.v1 import run_pb2

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from topowatch_monitor.engine.assembly import Part
    from topowatch_monitor.engine.lineage import Span
    from topowatch_monitor.engine.reading import Reading


@dataclass(frozen=True)
class RunSettings:
    """How much of a run is looked at, and when detectors fire."""

    path: PathSettings = field(default_factory=PathSettings)
    history: int = 2048
    trace_points: int = 256
    thresholds: Thresholds = field(default_factory=Thresholds)


class Told:
    """A run as its leading rank tells it; with another leader it begins anew.

    Args:
        settings: how much is looked at.

    Attributes:
        labels: of the run.
        path: of the weights.
        probed: all that the probes show.
        history: the scalars.
        terrain: the loss around the path.
        judgement: what the detectors say.
        events: when flags went on and off.
        milestones: what the run was like on its way.
        forecasts: that were made of it.
        step: the latest step; after a rewind, the one before the step that it went back to.
        ended: whether the newest life of the leader has ended.
        results: that it ended with.
        status: the client's overhead_ratio, interval and coverage.
    """

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings
        self.labels: dict[str, str] = {}
        self.path = PathState(settings.path)
        self.probed = Probed(settings.path, settings.trace_points)
        self.history = History(settings.history)
        self.terrain = Terrain()
        self.judgement = Judgement(settings.thresholds)
        self.events = Events()
        self.milestones = Milestones()
        self.forecasts = MadeForecasts()
        self.step: int | None = None
        self.ended = False
        self.results: dict[str, float] | None = None
        self.status: tuple[float, int, float] | None = None

    def describe(self, descriptor: run_pb2.RunDescriptor) -> None:
        """Take over what the newest life says of the run; what cannot be compared begins anew.

        Sketches always can: ingest refuses a life whose sketches are made otherwise than those of the run.
        """
        self.labels = dict(descriptor.labels)
        probe = descriptor.probe
        if self.probed.show(probe.digest):
            self.history.forget("probe_loss")
            self.history.forget("representation_rank")
        if probe.kind in (run_pb2.OUTPUT_KIND_LOGITS, run_pb2.OUTPUT_KIND_PROBS) and probe.outputs > 1:
            self.history.chance_loss = math.log(probe.outputs)
            self.probed.classes = probe.outputs

    def undo(self, span: Span) -> None:
        """Forget what parts of ranks were added up to in a span of steps."""
        self.path.discard(*span)
        self.history.discard(*span, names=PARTIAL)

    def supersede(self, span: Span) -> None:
        """Forget a span of steps."""
        self.path.discard(*span)
        self.probed.discard(*span)
        self.terrain.discard(*span)
        self.history.discard(*span)
        self.milestones.discard(*span)
        self.forecasts.discard(*span)

    def rewind(self, start: int) -> None:
        """Take in that the newest life goes on from step `start`."""
        self.ended, self.results = False, None
        if self.step is not None and self.step >= start:
            self.step = start - 1 if start > 0 else None
        self.judgement.rewind(self.history, start)
        self.events.supersede(start)

    def end(self, results: Mapping[str, float]) -> None:
        """Take in that the run has ended."""
        self.ended, self.results = True, results_of(results, self.history.latest)

    def add(self, step: int, whole: Part) -> None:
        """Take the whole model's sketch and sums at a step."""
        if whole.weights is not None:
            before = self.path.loop
            self.path.add(step, whole.weights)
            if self.path.loop is not None and self.path.loop != before:
                self.history.extend("path_loop", [self.path.loop[0]], [self.path.loop[1]])
        for name, value in whole.scalars.items():
            self.history.extend(name, [step], [value])

    def take(self, span: Span, reading: Reading, partial: Container[str]) -> bool:
        """Take what a sample says of the run as a whole, without the scalars that are `partial`.

        Where some are, the statistics of layers are of its own part as well, and say nothing of the whole.

        Returns:
            Whether the sample's step lies in `span`, that of its life.
        """
        on_path = reading.step in span
        if on_path and reading.representation is not None:
            self.probed.predicted(reading.step, reading.representation, reading.said)
        for name, steps, values in reading.scalars:
            if name not in partial:
                inside = (steps >= span.start) & (steps < span.stop)
                self.history.extend(name, steps[inside], values[inside])
        if not on_path:
            return False
        if not partial and reading.layers is not None:
            self.history.layers.add(reading.step, *reading.layers)
        if reading.frames is not None:
            self.history.extend("representation_rank", [reading.step], [effective_rank(reading.frames)])
        if reading.probe_losses is not None and reading.probe_loss is not None:
            self.probed.losses.add(reading.step, reading.probe_losses)
            self.history.extend("probe_loss", [reading.step], [reading.probe_loss])
        self.terrain.take(reading, self.history)
        self.step = reading.step if self.step is None else max(self.step, reading.step)
        self.judgement.judge(self.history, reading.step)
        if self.milestones.due(reading.step):
            self.milestones.add(self.milestone(reading.step))
        return True

    def milestone(self, step: int) -> Milestone:
        """What the run is like now, at the end of `step`."""
        known = features_of(self.history, self.path, self.probed, self.terrain)
        return Milestone(step, raw_row(known), *self.probed.said)

    def state_dict(self) -> dict[str, Any]:
        """Everything that is known, as plain values and arrays."""
        return {
            "labels": dict(self.labels),
            "path": self.path.state_dict(),
            "probed": self.probed.state_dict(),
            "history": self.history.state_dict(),
            "terrain": self.terrain.state_dict(),
            "judgement": self.judgement.state_dict(),
            "events": self.events.state_dict(),
            "milestones": self.milestones.state_dict(),
            "forecasts": self.forecasts.state_dict(),
            "step": self.step,
            "ended": self.ended,
            "results": self.results,
            "status": self.status,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], settings: RunSettings) -> Told:
        """What `state_dict` described."""
        told = cls(settings)
        told.labels = dict(state["labels"])
        told.path = PathState.from_state(state["path"])
        told.probed = Probed.from_state(state["probed"], settings.path, settings.trace_points)
        told.history = History.from_state(state["history"])
        told.terrain = Terrain.from_state(state["terrain"])
        told.judgement = Judgement.from_state(state["judgement"], settings.thresholds)
        told.events = Events.from_state(state["events"])
        told.milestones = Milestones.from_state(state["milestones"])
        told.forecasts = MadeForecasts.from_state(state["forecasts"])
        told.step, told.ended, told.results = state["step"], state["ended"], state["results"]
        told.status = None if state["status"] is None else tuple(state["status"])
        return told
