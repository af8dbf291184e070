"""Carries the runs of many virtual shards. A plain class: a Ray actor or a process of ours holds it alike."""

from __future__ import annotations

import importlib.metadata
import logging
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from topowatch_monitor.engine.codec import CodecError, decode, encode
from topowatch_monitor.engine.features import curves_of
from topowatch_monitor.engine.finished import Finished
from topowatch_monitor.engine.forecasting import Forecasting
from topowatch_monitor.engine.group_fit import EndedRun
from topowatch_monitor.engine.group_map import Walk, Walks
from topowatch_monitor.engine.placing import GroupKey, Key, Placing
from topowatch_monitor.engine.reading import Message, key_of, parse
from topowatch_monitor.engine.run_shape import run_shape
from topowatch_monitor.engine.run_state import RunState
from topowatch_monitor.engine.told import RunSettings
from topowatch_monitor.engine.view import FORGOTTEN
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from topowatch_monitor.engine.group_fit import GroupFit
    from topowatch_monitor.engine.group_forecast import ForecastFit
    from topowatch_monitor.engine.run_shape import RunShape
    from topowatch_monitor.engine.view import RunView

log = logging.getLogger("topowatch.engine")

# The version of what `Shard.snapshot` saves: raised with every change of a run's state or of what it means, so that
# what an older version saved is made again from the log.
STATE = 11


class Part(NamedTuple):
    """Records for one virtual shard: (offset, kind, payload) each, in order.

    It applies only to a shard of this epoch that stands at `expected_offset`, and leaves it at `next_offset`.
    """

    vshard: int
    epoch: int
    expected_offset: int
    next_offset: int
    records: Sequence[tuple[int, int, bytes]]


class ApplyResult(NamedTuple):
    """What a call of `Shard.apply` did.

    Attributes:
        views: of the runs that changed.
        refused: (vshard, epoch, offset) of each virtual shard that refused its part: where it stands; −1 if it is not
            loaded.
        damaged: records of this call that could not be decoded, or not be taken in whole.
        waiting: runs whose place among their siblings is still to be found, some by every call of `Shard.apply`.
    """

    views: list[RunView]
    refused: list[tuple[int, int, int]]
    damaged: int
    waiting: int = 0


@dataclass
class _Virtual:
    epoch: int
    next_offset: int
    runs: dict[Key, RunState] = field(default_factory=dict)


class Shard:
    """Virtual shards and the states of their runs.

    Args:
        settings: how much of each run is looked at.
    """

    def __init__(self, settings: RunSettings | None = None) -> None:
        self._settings = settings or RunSettings()
        self._looked_at_with = asdict(self._settings)
        self._virtual: dict[int, _Virtual] = {}
        self._placing = Placing()
        self._forecasting = Forecasting()
        self._refused_states = 0

    def load(self, vshard: int, epoch: int, next_offset: int, state: bytes | None) -> bool:
        """Put a virtual shard in place, from a snapshot or empty; one that is there is replaced.

        Returns:
            Whether it is in place. It is not, and refuses parts until it is loaded again, if the snapshot cannot be
            used: it is damaged, of another version, or of runs that were looked at with other settings.
        """
        self._let_go(vshard)
        virtual = _Virtual(epoch, next_offset)
        if state is not None:
            try:
                virtual.runs = self._restored(state)
            except MemoryError:
                raise  # says nothing of the snapshot
            except Exception as error:  # noqa: BLE001 - bytes of another version can break the rebuilding anywhere
                self._tell_refused(vshard, error)
                return False
        self._virtual[vshard] = virtual
        for run in virtual.runs.values():
            self._placing.follow(run)  # on what was published here before
        return True

    def receive(self, vshard: int, epoch: int, next_offset: int, handed: list[tuple[int, int, bytes]]) -> ApplyResult:
        """Put a virtual shard in place that another carrier hands over, with all of its runs in their places.

        Args:
            vshard: its number.
            epoch: of the parts that will come here.
            next_offset: of the first of them.
            handed: what the other's `snapshot` says of it.
        """
        [(_, offset, state)] = handed
        if offset != next_offset or not self.load(vshard, epoch, offset, state):
            return ApplyResult([], [(vshard, -1, offset)], 0, self._placing.waiting)
        runs = list(self._virtual[vshard].runs.values())
        for run in runs:
            self._placing.place(run)
        return ApplyResult(self._views(runs), [], 0, self._placing.waiting)

    def drop(self, vshard: int, epoch: int) -> ApplyResult:
        """Let a virtual shard go that was handed over, and refuse what still comes for it; not one of another epoch."""
        virtual = self._virtual.get(vshard)
        if virtual is not None and virtual.epoch == epoch:
            self._let_go(vshard)
        return ApplyResult([], [], 0, self._placing.waiting)

    def retain(self, vshards: Container[int]) -> int:
        """Let all virtual shards go but these; return how many that were."""
        strange = [number for number in self._virtual if number not in vshards]
        for number in strange:
            self._let_go(number)
        return len(strange)

    def apply(self, parts: Iterable[Part]) -> ApplyResult:
        """Apply records; a part that does not fit where its virtual shard stands is refused and changes nothing."""
        touched: dict[Key, RunState] = {}
        gone: list[RunView] = []
        refused = []
        damaged = 0
        for part in parts:
            virtual = self._virtual.get(part.vshard)
            if virtual is None:
                refused.append((part.vshard, -1, -1))
            elif (part.epoch, part.expected_offset) != (virtual.epoch, virtual.next_offset):
                refused.append((part.vshard, virtual.epoch, virtual.next_offset))
            else:
                runs, undecodable = _by_run(part.records)
                damaged += undecodable
                for key, messages in runs.items():
                    for message in messages:
                        if message is None:
                            touched.pop(key, None)
                            gone += self._forget(virtual, key)
                            continue
                        run = virtual.runs.get(key)
                        if run is None:
                            run = virtual.runs[key] = RunState(*key, self._settings)
                        damaged += not run.apply_message(message)
                        self._placing.follow(run)
                        touched[key] = run
                virtual.next_offset = part.next_offset
        touched |= {run.key: run for run in self._placing.go_on(self._find)}
        return ApplyResult([*gone, *self._views(touched.values())], refused, damaged, self._placing.waiting)

    def ended_runs(self, group: GroupKey, most: int) -> list[EndedRun]:
        """The ended runs of a group that have a path of predictions, for a refit, with at most so many points each."""
        found = []
        for run in self._of_group(group):
            trace = run.told.probed.trace
            if run.ended and len(trace):
                view, points = run.view(), trace.few(most)[1] if len(trace) > most else np.stack(trace.points)
                digest, results = run.told.probed.digest.hex(), view["results"] or {}
                found.append(EndedRun(view["run"], view["samples"], digest, view["labels"], results, points))
        return found

    def finished_runs(self, group: GroupKey, most: int | None = None) -> list[Finished]:
        """The ended runs of a group with a result, for forecasts; at most so many, the last by name."""
        ended = sorted(
            (run for run in self._of_group(group) if run.ended and run.told.results), key=lambda run: run.key
        )
        return [finished(run) for run in ended[-most if most else None :]]

    def walks(self, group: GroupKey, most: int, points: int) -> Walks:
        """Runs of a group that have a path of predictions, for its map: at most so many, live ones first."""
        runs = [run for run in self._of_group(group) if len(run.told.probed.trace)]
        chosen = sorted(runs, key=lambda run: (run.ended, run.key))[:most]
        walks = [
            Walk(run.key[2], not run.ended, run.told.probed.digest.hex(), *run.told.probed.trace.strided(points))
            for run in chosen
        ]
        return Walks(walks, len(runs) - len(walks))

    def shape(self, key: Key) -> RunShape | str | None:
        """What is drawn of a run, or in words why it could not be; None if it is not here."""
        run = self._find(key)
        try:
            return None if run is None else run_shape(run.told)
        except Exception as error:  # a look at a run ends no engine, whatever the run is like
            log.exception("run %r of group %r cannot be drawn", key[2], key[1])
            return f"its drawing failed ({type(error).__name__}: {error}); this is a fault of topowatch"

    def publish_forecast(self, group: GroupKey, fit: ForecastFit) -> ApplyResult:
        """Take over what was learned from the ended runs of a group."""
        self._forecasting.publish(group, fit)
        return ApplyResult(self._views(self._of_group(group)), [], 0, self._placing.waiting)

    def publish(self, group: GroupKey, fit: GroupFit, outside: Mapping[str, int]) -> ApplyResult:
        """Take over a refit of a group, and for how many evaluations in a row its live runs were outside."""
        runs = self._of_group(group)
        self._placing.publish(group, fit, outside, runs)
        return ApplyResult(self._views(runs), [], 0, self._placing.waiting)

    def stand(self, group: GroupKey, outside: Mapping[str, int]) -> ApplyResult:
        """Take over for how many evaluations in a row the live runs of a group were outside."""
        new = self._placing.stand(group, outside)
        runs = [run for run in self._of_group(group) if run.key[2] in new]
        return ApplyResult(self._views(runs), [], 0, self._placing.waiting)

    def forget_group(self, group: GroupKey) -> ApplyResult:
        """Let everything go that was published of a group; runs of it that came since begin without."""
        self._placing.forget_group(group)
        self._forecasting.forget_group(group)
        return ApplyResult(self._views(self._of_group(group)), [], 0, self._placing.waiting)

    def snapshot(self, vshards: Iterable[int]) -> list[tuple[int, int, bytes]]:
        """State of virtual shards: number, offset of the next record, and bytes for `load`."""
        found = []
        for number in vshards:
            virtual = self._virtual[number]
            runs = [run.state_dict() for run in virtual.runs.values()]
            state = {"state": STATE, "settings": self._looked_at_with, "runs": runs}
            found.append((number, virtual.next_offset, encode(state)))
        return found

    def views(self, vshards: Iterable[int] | None = None) -> list[RunView]:
        """Views of the runs of virtual shards; None: of all."""
        chosen = self._virtual if vshards is None else vshards
        return self._views(run for number in chosen for run in self._virtual[number].runs.values())

    def version(self) -> tuple[str, int]:
        """Of topowatch here, and of the states that it saves."""
        return importlib.metadata.version("topowatch"), STATE

    def _views(self, runs: Iterable[RunState]) -> list[RunView]:
        """Views of runs, with their place among their siblings."""
        views = []
        for run in runs:
            view = run.view()
            view["path_class"] = self._placing.view(run, view)
            view["forecast"] = self._forecasting.view(run) or view["forecast"]
            views.append(view)
        return views

    def _let_go(self, vshard: int) -> None:
        """Let a virtual shard and its runs go, without a word; there may be none."""
        virtual = self._virtual.pop(vshard, None)
        for key in () if virtual is None else virtual.runs:
            self._placing.forget(key)
            self._forecasting.forget(key)

    def _forget(self, virtual: _Virtual, key: Key) -> list[RunView]:
        """Let a run go; return its last view, which says so."""
        run = virtual.runs.pop(key, None)
        self._placing.forget(key)
        self._forecasting.forget(key)
        return [] if run is None else [{**run.view(), "state": FORGOTTEN}]

    def _of_group(self, group: GroupKey) -> list[RunState]:
        return [run for virtual in self._virtual.values() for key, run in virtual.runs.items() if key[:2] == group]

    def _find(self, key: Key) -> RunState | None:
        found = (virtual.runs[key] for virtual in self._virtual.values() if key in virtual.runs)
        return next(found, None)

    def _restored(self, data: bytes) -> dict[Key, RunState]:
        """The runs of a snapshot; raises whatever is wrong with it."""
        saved = decode(data)
        if saved["state"] != STATE:
            raise CodecError(f"its version is {saved['state']}, this daemon's is {STATE}")
        if saved["settings"] != self._looked_at_with:
            raise CodecError("its runs were looked at with other settings")
        runs = (RunState.from_state(run, self._settings) for run in saved["runs"])
        return {run.key: run for run in runs}

    def _tell_refused(self, vshard: int, error: Exception) -> None:
        """Log a snapshot that cannot be used; as a rule all of a start share the reason, so one line is enough."""
        self._refused_states += 1
        if self._refused_states == 1:
            log.warning(
                "the snapshot of virtual shard %d cannot be used (%s: %s), its runs are made again from the log;"
                " further ones are not told",
                vshard,
                type(error).__name__,
                error,
            )


def finished(run: RunState) -> Finished:
    """What a run that has ended hands out for forecasts."""
    told, step = run.told, run.step or 0
    results = told.results or {}
    milestones = [each for each in told.milestones.known if each.step < step]
    return Finished(
        run=run.key[2],
        group=run.key[1],
        labels=dict(told.labels),
        digest=told.probed.digest.hex(),
        classes=told.probed.classes,
        results=results,
        steps=step + 1,
        milestones=[*milestones, told.milestone(step)],
        curves=curves_of(told.history, results),
        forecasts=told.forecasts.made,
    )


def _by_run(records: Iterable[tuple[int, int, bytes]]) -> tuple[dict[Key, list[Message | None]], int]:
    """Parse records and group them by run, None where it is forgotten; also how many could not be parsed."""
    grouped: dict[Key, list[Message | None]] = {}
    damaged = 0
    for _, kind, payload in records:
        try:
            message = parse(kind, payload)
            forgotten = log_pb2.Event.FromString(payload) if kind == LogKind.RUN_FORGOTTEN else None
        except DecodeError:
            damaged += 1
            continue
        about = message or forgotten
        if about is not None:
            key = about.key if isinstance(about, log_pb2.Event) else key_of(about)
            grouped.setdefault((key.tenant, key.group, key.run), []).append(message)
    return grouped, damaged
