"""Many recorded runs under given thresholds: which flags they raise, and how well that fits what is known of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from topowatch_monitor.commands.flag_history import Life, lives_of
from topowatch_monitor.commands.output import CommandError
from topowatch_monitor.commands.records import by_run
from topowatch_monitor.detect import DETECTORS, STALLED_RUN
from topowatch_monitor.detect.scoring import Bounds, RunFlags, Score, score
from topowatch_monitor.engine.events import MINIMUM_UNSTABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from topowatch_monitor.commands.marks import Mark
    from topowatch_monitor.commands.records import Key
    from topowatch_monitor.engine.told import RunSettings
    from topowatch_monitor.store.log import Record

# What is judged by the clock when somebody looks is not in a recording.
SCORED = (MINIMUM_UNSTABLE, *(detector.name for detector in DETECTORS if detector is not STALLED_RUN))


class Scores(NamedTuple):
    """Scores of all detectors.

    Attributes:
        by_detector: of `minimum_unstable` too.
        marked: runs that were scored.
        unmarked: names of those that were not, since nothing is known of them.
        unmeasured: names of those that went wrong without a departure, marked or found: they tell no lead.
    """

    by_detector: dict[str, Score]
    marked: int
    unmarked: list[str]
    unmeasured: list[str]


def replay_all(
    files: Iterable[Path],
    read: Callable[[Path], list[Record]],
    settings: RunSettings,
    *,
    keys: Container[Key],
    terminal: Console,
    quiet: bool,
) -> dict[Key, list[Life]]:
    """Return the lives of runs in recordings; a bar on the terminal shows how far it is.

    Args:
        files: recordings.
        read: what reads one.
        settings: how much of a run is looked at, and the thresholds.
        keys: which runs.
        terminal: where the bar goes.
        quiet: leave it out.
    """
    found: dict[Key, list[Life]] = {}
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TextColumn("records"), TimeRemainingColumn())
    with Progress(*columns, console=terminal, transient=True, disable=quiet or not terminal.is_terminal) as progress:
        task = progress.add_task("", total=None)

        def counted(records: list[Record]) -> Iterator[Record]:
            for record in records:
                yield record
                progress.advance(task)

        for file in files:
            runs = {key: records for key, records in by_run(read(file)).items() if key in keys}
            before = progress.tasks[0].total or 0
            progress.update(task, total=before + sum(map(len, runs.values())))
            for key, records in runs.items():
                found[key] = list(lives_of(key, counted(records), settings))
    return found


def score_all(runs: Mapping[Key, Sequence[Life]], marked: Mapping[Key, Mark], file: Path) -> Scores:
    """Score all detectors on the runs that `file` marks; raises CommandError for an onset that was not recorded."""
    spans = {key: _spans(key, runs[key], mark, file) for key, mark in marked.items()}
    scores = {
        name: score(
            [
                RunFlags(life.start, life.stop, life.intervals(name), onset, departed)
                for each in spans.values()
                for life, onset, departed in each
            ]
        )
        for name in SCORED
    }
    lost = [key[2] for key, each in spans.items() if any(onset is not None and at is None for _, onset, at in each)]
    return Scores(scores, len(marked), sorted(key[2] for key in runs.keys() - marked.keys()), sorted(lost))


def scores_json(scores: Scores) -> dict[str, Any]:
    """Return the scores as JSON knows them."""
    by_detector = {}
    for name, one in scores.by_detector.items():
        told = dataclasses.asdict(one)
        by_detector[name] = told | {field: each._asdict() for field, each in told.items() if isinstance(each, Bounds)}
    return {
        "marked": scores.marked,
        "unmarked": scores.unmarked,
        "without_departure": scores.unmeasured,
        "detectors": by_detector,
    }


def flags_json(runs: Mapping[Key, Sequence[Life]]) -> dict[str, Any]:
    """Return the flags of runs as JSON knows them."""
    told = [
        {
            "run": run,
            "group": group,
            "lives": [
                {
                    "start": life.start,
                    "stop": life.stop,
                    "departure": life.departure(),
                    "flags": [dataclasses.asdict(flag) for flag in life.flags],
                }
                for life in lives
            ],
        }
        for (_, group, run), lives in runs.items()
    ]
    return {"runs": told}


def _spans(key: Key, lives: Sequence[Life], mark: Mark, file: Path) -> list[tuple[Life, int | None, int | None]]:
    """Each life with its onset and departure: a mark is of the first that came to its step, the others did well."""
    onset = mark.onset
    if onset is None:
        return [(life, None, None) for life in lives]
    wrong = next((life for life in lives if life.start <= onset < life.stop), None)
    if wrong is None:
        seen = ", ".join(f"{life.start} to {life.stop - 1}" for life in lives) or "none"
        raise CommandError(f"{file} marks run {key[2]!r} at step {onset}, but recorded are steps {seen}", status=2)
    departed = wrong.departure() if mark.departure is None else mark.departure
    after = departed if departed is not None and departed >= onset else None
    return [(life, onset, after) if life is wrong else (life, None, None) for life in lives]
