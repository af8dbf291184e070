"""Many recordings under other thresholds: their flags, their lives, and scores against marked events."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topowatch_monitor import config
from topowatch_monitor.cli import main
from topowatch_monitor.commands.flag_history import lives_of
from topowatch_monitor.commands.marks import Mark, read_marks
from topowatch_monitor.commands.output import CommandError
from topowatch_monitor.commands.records import by_run, keys_in, of_run
from topowatch_monitor.detect.departure import departure
from topowatch_monitor.detect.loss_rise import LossRiseThresholds
from topowatch_monitor.engine.path_state import PathSettings
from topowatch_monitor.engine.run_state import RunState
from topowatch_monitor.engine.told import RunSettings
from topowatch_monitor.store.log import Record
from topowatch_monitor.store.recording import write_recording
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2, run_pb2, sample_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

SMALL = RunSettings(path=PathSettings(window=8, h1_every=10**6, h1_landmarks=8, shape_every=10**6))
Run = Callable[..., tuple[int, str, str]]  # arguments to (exit status, standard output, standard error)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process."""
    monkeypatch.setenv("COLUMNS", "140")

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        status = main([str(one) for one in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def opened(name: str, incarnation: int = 1, start: int = 0, group: str = "g") -> Record:
    record = log_pb2.RunOpened()
    record.descriptor.key.CopyFrom(run_pb2.RunKey(group=group, run=name))
    record.descriptor.incarnation, record.descriptor.start_step = incarnation, start
    record.descriptor.contributing_ranks = 1
    return Record(0, LogKind.RUN_OPENED, record.SerializeToString())


def samples(
    name: str, losses: Sequence[float], incarnation: int = 1, start: int = 0, *, every: int = 4, group: str = "g"
) -> list[Record]:
    """A sample every so many steps, with the losses of all steps since the one before."""
    records = []
    for first in range(start, start + len(losses), every):
        told = losses[first - start : first - start + every]
        body = sample_pb2.Sample(step=first + len(told) - 1)
        body.scalars.add(name="loss", steps=range(first, first + len(told)), values=told)
        item = sample_pb2.Item(schema=1, sample=body).SerializeToString()
        stored = log_pb2.StoredItem(key=run_pb2.RunKey(group=group, run=name), incarnation=incarnation, item=item)
        records.append(Record(0, LogKind.STORED_ITEM, stored.SerializeToString()))
    return records


def curve(steps: int, *, jump_at: int | None = None, jump: float = 2.0) -> list[float]:
    """A loss that falls, with a little noise, and jumps."""
    noise = np.random.default_rng(0).normal(0, 0.01, steps)
    at = np.arange(steps)
    fallen = 0.3 + 2 * np.exp(-at / 40) + noise
    return (fallen if jump_at is None else fallen + jump * (at >= jump_at)).tolist()


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    """Two files: runs lost and calm, and a run of that was rolled back."""
    files = [tmp_path / "one.twrun", tmp_path / "two.twrun"]
    write_recording(
        files[0],
        [
            opened("lost"),
            *samples("lost", curve(600, jump_at=300)),
            opened("calm"),
            *samples("calm", curve(600)),
        ],
    )
    write_recording(
        files[1],
        [
            opened("back"),
            *samples("back", curve(400, jump_at=300)),
            opened("back", 2, 280),
            *samples("back", curve(600)[280:], 2, 280),
        ],
    )
    return files


def marked(tmp_path: Path, content: str, name: str = "events.csv") -> Path:
    file = tmp_path / name
    file.write_text(content)
    return file


# Flags


def test_flags_of_several_runs_are_listed_with_their_steps(run: Run, recordings: list[Path]):
    status, out, _ = run("replay", *recordings, "--json")
    assert status == 0
    told = {one["run"]: one["lives"] for one in json.loads(out)["runs"]}
    assert [(life["start"], life["stop"]) for life in told["lost"]] == [(0, 600)]
    flags = {flag["detector"]: flag for flag in told["lost"][0]["flags"]}
    assert flags.keys() >= {"loss_rise", "minimum_unstable"}
    assert 300 <= flags["loss_rise"]["on"] <= 320
    assert flags["loss_rise"]["off"] is None
    assert told["calm"] == [{"start": 0, "stop": 600, "departure": None, "flags": []}]
    status, out, _ = run("replay", *recordings)
    assert status == 0
    assert "above its lowest level" in out
    assert "rewind" in out
    assert "no flag: calm" in out


def test_each_life_of_a_run_has_its_own_steps_flags_and_losses(recordings: list[Path]):
    [(key, records)] = by_run(records_in(recordings[1])).items()
    first, second = lives_of(key, records, SMALL)
    assert (first.start, first.stop, second.start, second.stop) == (0, 400, 280, 600)
    assert {flag.detector for flag in first.flags} >= {"loss_rise", "minimum_unstable"}
    assert second.flags == []
    assert first.losses == curve(400, jump_at=300)
    assert second.losses == curve(600)
    assert second.loss_steps == list(range(600))
    assert first.departure() == departure(np.array(curve(400, jump_at=300)))
    assert second.departure() is None


def test_a_flag_that_a_rewind_leaves_on_is_on_from_the_first_step_of_the_next_life():
    records = [opened("r"), *samples("r", curve(400, jump_at=200)), opened("r", 2, 360)]
    records += samples("r", curve(400, jump_at=200)[360:], 2, 360)
    first, second = lives_of(("", "g", "r"), records, SMALL)
    assert {(flag.detector, flag.on, flag.off) for flag in second.flags} == {
        (flag.detector, 360, None) for flag in first.flags if flag.off is None
    }
    assert second.intervals("loss_rise") == [(360, None)]


def test_a_job_that_goes_on_where_it_ended_has_one_life():
    records = [opened("r"), *samples("r", curve(100)), opened("r", 2, 100), *samples("r", curve(200)[100:], 2, 100)]
    [life] = lives_of(("", "g", "r"), records, SMALL)
    assert (life.start, life.stop, life.losses) == (0, 200, curve(200))


def test_no_departure_is_sought_in_losses_with_gaps():
    records = [opened("r"), *samples("r", curve(300, jump_at=150))]
    [whole] = lives_of(("", "g", "r"), records, SMALL)
    [holed] = lives_of(("", "g", "r"), records[:20] + records[21:], SMALL)
    assert whole.departure() is not None
    assert holed.departure() is None


@settings(max_examples=25, deadline=None)
@given(
    losses=st.lists(st.floats(0.01, 5) | st.just(math.nan), min_size=40, max_size=160),
    start=st.integers(1, 150),
    seed=st.integers(0, 3),
)
def test_at_its_end_a_life_is_in_the_state_of_the_run(losses: list[float], start: int, seed: int):
    again = np.random.default_rng(seed).uniform(0.1, 4, 60).tolist()
    records = [opened("r"), *samples("r", losses), opened("r", 2, start), *samples("r", again, 2, start)]
    state = RunState("", "g", "r", SMALL)
    for record in records:
        state.apply(record.kind, record.payload)
    lives = list(lives_of(("", "g", "r"), records, SMALL))
    assert lives[-1].stop == state.step + 1 == start + 60
    running = {flag.detector: flag for flag in lives[-1].flags if flag.off is None}
    assert running.keys() == state.told.events.on.keys()
    for life in lives:
        for flag in life.flags:
            assert life.start <= flag.on < life.stop
            assert flag.off is None or flag.on < flag.off < life.stop


def records_in(file: Path) -> list[Record]:
    from topowatch_monitor.store.recording import read_recording

    return list(read_recording(file))


def test_records_are_parted_by_run_as_if_each_were_asked_for(recordings: list[Path]):
    decision = Record(0, LogKind.DECISION, log_pb2.Decision().SerializeToString())
    records = [decision, *records_in(recordings[0]), decision, *records_in(recordings[1])]
    assert by_run(records) == {key: list(of_run(records, key)) for key in keys_in(records)}


# Scores


EVENTS = "run,onset,departure\nlost,300,\ncalm,healthy,\nback,300,\n"


def test_scores_hold_flags_against_marked_events(run: Run, recordings: list[Path], tmp_path: Path):
    status, out, err = run("replay", *recordings, "--events", marked(tmp_path, EVENTS), "--json")
    assert status == 0, err
    answer = json.loads(out)
    assert (answer["marked"], answer["unmarked"], answer["without_departure"]) == (3, [], [])
    score = answer["detectors"]["loss_rise"]
    assert (score["events"], score["found"], score["false_alarms"]) == (2, 2, 0)
    # Steps before both onsets, the healthy run, and the second life of the one that was rolled back.
    assert score["healthy_steps"] == 300 + 600 + 300 + 320
    lost = departure(np.array(curve(600, jump_at=300)))
    assert score["leads"] == [lost - 300 - delay for delay in reversed(score["delays"])]
    assert score["recall"]["value"] == score["precision"]["value"] == 1
    assert answer["detectors"]["exploding_update"]["recall"]["value"] == 0
    assert answer["detectors"].keys() >= {"minimum_unstable", "non_finite_loss"}
    assert "stalled_run" not in answer["detectors"]
    status, out, _ = run("replay", *recordings, "--events", tmp_path / "events.csv")
    assert status == 0
    for words in ("3 marked runs: 2 went wrong, 1,520 healthy steps", "minimum unstable", "2 of 2", "never on: "):
        assert words in out


def test_other_thresholds_change_the_scores(run: Run, recordings: list[Path], tmp_path: Path):
    other = marked(tmp_path, "[detect.loss_rise]\nalarm = 1e6\n", "other.toml")
    events = marked(tmp_path, EVENTS)
    _, out, _ = run("replay", *recordings, "--events", events, "--config", other, "--json")
    score = json.loads(out)["detectors"]["loss_rise"]
    assert (score["found"], score["false_alarms"]) == (0, 0)


def test_a_flag_before_the_marked_onset_is_a_false_alarm(run: Run, recordings: list[Path], tmp_path: Path):
    late = EVENTS.replace("lost,300,", "lost,450,460").replace("back,300,\n", "")
    _, out, _ = run("replay", *recordings, "--events", marked(tmp_path, late), "--json")
    answer = json.loads(out)
    assert answer["unmarked"] == ["back"]
    score = answer["detectors"]["loss_rise"]
    assert (score["events"], score["found"], score["false_alarms"]) == (1, 0, 1)
    assert score["precision"]["value"] == 0
    _, out, _ = run("replay", *recordings, "--events", tmp_path / "events.csv")
    assert "not marked, so not scored: back" in out


def test_an_event_without_any_departure_tells_no_lead(run: Run, recordings: list[Path], tmp_path: Path):
    events = marked(tmp_path, "run,onset\ncalm,100\nlost,300\n")
    answer = json.loads(run("replay", *recordings, "--events", events, "--json")[1])
    assert answer["without_departure"] == ["calm"]
    assert len(answer["detectors"]["loss_rise"]["leads"]) == 1
    assert "nor seen in a loss of every step: calm" in run("replay", *recordings, "--events", events)[1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("run,onset\nlost,700\n", "marks run 'lost' at step 700, but recorded are steps 0 to 599"),
        ("run,onset\nother,7\n", "marks run 'other', which the recordings do not hold; they hold back, calm, lost"),
        ("run,onset,group\nlost,7,h\n", "marks run 'lost' of group 'h', which the recordings do not hold"),
        ("run,onset\nlost,7\nlost,8\n", "marks run 'lost' twice"),
    ],
)
def test_marks_that_fit_no_recording_are_explained(
    run: Run, recordings: list[Path], tmp_path: Path, content: str, words: str
):
    status, out, err = run("replay", *recordings, "--events", marked(tmp_path, content))
    assert (status, out) == (2, "")
    assert words in err


def test_a_mark_names_the_group_where_several_have_the_run(run: Run, tmp_path: Path):
    file = tmp_path / "groups.twrun"
    write_recording(
        file,
        [one for group in ("g", "h") for one in (opened("r", group=group), *samples("r", curve(60), group=group))],
    )
    status, _, err = run("replay", file, "--events", marked(tmp_path, "run,onset\nr,healthy\n"))
    assert (status, "several groups have: name one under `group` (g, h)" in err) == (2, True)
    events = marked(tmp_path, "run,onset,group\nr,healthy,g\nr,healthy,h\n")
    assert json.loads(run("replay", file, "--events", events, "--json")[1])["marked"] == 2
    assert len(json.loads(run("replay", file, "--json")[1])["runs"]) == 2
    assert "view" in json.loads(run("replay", file, "--group", "h", "--json")[1])


@pytest.mark.parametrize("flag", [("--verify",), ("--run", "lost"), ("--group", "g")])
def test_events_are_for_all_runs_that_they_mark(run: Run, recordings: list[Path], tmp_path: Path, flag: tuple[str]):
    status, _, err = run("replay", *recordings, "--events", marked(tmp_path, EVENTS), *flag)
    assert (status, "leave --verify, --run and --group out" in err) == (2, True)


def test_a_run_that_two_recordings_hold_is_refused(run: Run, recordings: list[Path]):
    status, _, err = run("replay", recordings[0], recordings[0])
    assert (status, "both hold run" in err) == (2, True)


# Marks


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", "run,onset,departure,group\na,5,9,\nb,healthy,,h\n"),
        ("m.csv", "\ufeffgroup, run ,departure,onset\r\n,a,9,5\r\nh,b,,healthy\r\n"),
        ("m.json", '[{"run": "a", "onset": 5, "departure": 9}, {"run": "b", "onset": "healthy", "group": "h"}]'),
        ("m.toml", "[[events]]\nrun = 'a'\nonset = 5\ndeparture = 9\n[[events]]\nrun='b'\nonset='healthy'\ngroup='h'"),
    ],
)
def test_marks_read_alike_from_every_format(tmp_path: Path, name: str, content: str):
    marks = [(mark.run, mark.onset, mark.departure, mark.group) for mark in read_marks(marked(tmp_path, content, name))]
    assert marks == [("a", 5, 9, None), ("b", None, None, "h")]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.csv", None, "No such file"),
        ("m.txt", "", "ends in none of .csv, .json and .toml"),
        ("m.json", "[", "cannot be read as .json"),
        ("m.json", "{}", "holds no events: write them as a list of objects"),
        ("m.toml", "a = 1", "holds no events: write them as tables [[events]]"),
        ("m.json", "[" * 100_000, "cannot be read as .json"),
        ("m.json", "[3]", "event 1: Input should be a valid dictionary"),
        ("m.csv", "run,onset\na,1\nb,\n", "event 2: onset: expected the step at which the run went wrong, or healthy"),
        ("m.csv", "run,onset\na,soon\n", "event 1: onset: expected the step"),
        ("m.json", '[{"run": "a", "onset": true}]', "or healthy, not True"),
        ("m.json", '[{"run": "a", "onset": -1}]', "greater than or equal to 0, not -1"),
        ("m.json", '[{"run": "a"}]', "onset Field required"),
        ("m.csv", "run,onset,departure\na,9,5\n", "the departure, 5, has to follow an onset, which is 9"),
        ("m.csv", "run,onset,departure\na,healthy,5\n", "has to follow an onset, which is healthy"),
        ("m.csv", "run,onset,depart\na,1,5\n", "unknown key 'depart': valid are run, onset, departure, group"),
        ("m.csv", "run,onset\na,1,5\n", "unknown key 'more'"),
    ],
)
def test_a_wrong_mark_is_named_with_what_is_expected(tmp_path: Path, name: str, content: Any, words: str):
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    with pytest.raises(CommandError) as caught:
        read_marks(file)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)


def test_the_examples_of_the_readme_can_be_copied(tmp_path: Path):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    below = readme.split("\n## Tune the detectors to your jobs\n")[1].split("\n## ")[0]
    toml = marked(tmp_path, below.split("```toml\n")[1].split("```")[0], "other.toml")
    assert config.load(file=toml).settings.detect.loss_rise.alarm == 30
    assert "24 by default" in below
    assert LossRiseThresholds().alarm == 24
    rows = below[below.index("    run,onset") :].split("\n\n")[0].replace("    ", "")
    assert [(mark.onset, mark.departure) for mark in read_marks(marked(tmp_path, rows))] == [(1200, 1310), (None, None)]


def test_a_mark_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Mark(run="a", onset=1).onset = 2
