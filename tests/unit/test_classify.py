"""`topowatch classify`: paths out of a file, and every way in which they can be wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from topowatch_monitor.commands import classify, classify_worker
from topowatch_monitor.commands.classify_worker import classify_file
from topowatch_monitor.commands.killable import TooSlowError, run_killable
from topowatch_monitor.commands.output import CommandError
from topowatch_monitor.commands.paths_file import PathsFileError, read_paths
from topowatch_monitor.engine.group_fit import merges
from topowatch_monitor.topology import limits
from topowatch_monitor.topology.path_classes import PathClasses

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = {"landmarks": 100, "dims": 3, "alpha": 1e-4, "relative": True, "timeout": 60.0}
Run = Callable[..., tuple[int, str, str]]


def two_sides(runs: int = 24, left: int = 4, noise: float = 0.05) -> dict[str, Any]:
    """Columns of paths that pass a hole on one side, the last `left` of them on the other."""
    rng = np.random.default_rng(0)
    t = np.linspace(0, 1, 50)
    columns: dict[str, list[Any]] = {"path": [], "t": [], "vector": []}
    for number in range(runs):
        side = -1 if number >= runs - left else 1
        points = np.stack([4 * t, side * 1.5 * np.sin(np.pi * t), 0 * t], axis=1)
        points += rng.normal(0, noise, points.shape)
        columns["path"] += [f"run-{number}"] * len(t)
        columns["t"] += range(len(t))
        columns["vector"] += points.tolist()
    return columns


def written(tmp_path: Path, columns: dict[str, Any] | pa.Table, name: str = "paths.parquet") -> Path:
    file = tmp_path / name
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), file)
    return file


# The command


def test_classify_prints_the_fields_of_path_classes_as_json(run: Run, tmp_path: Path):
    status, out, err = run("classify", str(written(tmp_path, two_sides())), "--landmarks", "200")
    assert (status, err) == (0, "")
    told = json.loads(out)
    named = {field.name for field in dataclasses.fields(PathClasses) if not field.name.startswith("_")}
    assert named | {"merge_scale"} <= told.keys()
    assert told["labels"] == [0] * 20 + [1] * 4
    assert told["label_of"] == dict(zip(told["paths"], told["labels"], strict=True))
    assert told["outliers"] == ["run-20", "run-21", "run-22", "run-23"]
    assert told["p_value_of"]["run-23"] < 1e-4
    assert told["abstained"] is False
    assert len(told["merges"]) == 23


def test_classify_can_print_a_table(run: Run, tmp_path: Path):
    status, out, _ = run("classify", str(written(tmp_path, two_sides())), "--landmarks", "200", "--table")
    assert status == 0
    flat = " ".join(out.split())
    assert "24 paths, 1,200 points" in flat
    assert "0 20 majority run-0" in flat
    assert "run-23 1 !" in flat
    assert "─ ×4 runs class 1, outlier" in flat
    assert max(map(len, out.splitlines())) <= 80


def test_names_cannot_command_the_terminal(run: Run, tmp_path: Path):
    columns = two_sides()
    columns["path"] = [{"run-23": "\x1b[31mred\n[/b]"}.get(name, name) for name in columns["path"]]
    status, out, _ = run("classify", str(written(tmp_path, columns)), "--landmarks", "200", "--table")
    assert status == 0
    assert "\x1b" not in out
    assert "\\x1b[31mred\\n[/b]" in out


def test_of_very_many_paths_no_tree_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It needs a number for every two of them."""
    monkeypatch.setattr(classify_worker, "MOST_MERGED", 4)
    told = classify_file(written(tmp_path, two_sides(runs=5)), OPTIONS)
    assert (told["merges"], told["merge_scale"], len(told["labels"])) == (None, None, 5)
    terminal = Console(width=80)
    with terminal.capture() as shown:
        terminal.print(classify._page(json.loads(json.dumps(told)), 80))
    assert "No dendrogram" in shown.get()


def test_too_few_paths_are_an_answer_that_is_withheld(run: Run, tmp_path: Path):
    status, out, _ = run("classify", str(written(tmp_path, two_sides(runs=5))), "--landmarks", "50")
    told = json.loads(out)
    assert (status, told["abstained"], told["labels"]) == (0, True, [0] * 5)
    assert "at least 12" in told["reason"]
    status, out, _ = run("classify", str(written(tmp_path, two_sides(runs=5))), "--table")
    assert "Classes: abstained, 5 paths" in out


def test_points_that_are_all_equal_are_an_answer_that_is_withheld(tmp_path: Path):
    columns = {"path": ["a", "a", "b", "b"], "t": [0, 1, 0, 1], "vector": [[1.0, 2.0]] * 4}
    told = classify_file(written(tmp_path, columns), OPTIONS)
    assert (told["abstained"], told["reason"]) == (True, "all points are equal")
    assert told["merges"] == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    "flag", [("--dims", "0"), ("--landmarks", "7"), ("--timeout", "0"), ("--timeout", "inf"), ("--timeout", "nan")]
)
def test_options_out_of_range_are_refused(run: Run, tmp_path: Path, flag: tuple[str, str]):
    assert run("classify", str(tmp_path / "x"), *flag)[0] == 2


def test_a_wrong_level_gives_one_sentence(run: Run, tmp_path: Path):
    status, out, err = run("classify", str(written(tmp_path, two_sides())), "--alpha", "2")
    assert (status, out, err) == (1, "", "error: alpha lies between 0 and 1, not at 2.0\n")


def test_what_takes_too_long_is_ended(run: Run, tmp_path: Path):
    began = time.monotonic()
    status, out, err = run("classify", str(written(tmp_path, two_sides())), "--timeout", "0.1")
    assert (status, out) == (1, "")
    assert err.startswith("error: the classification took longer than 0.1 s and was dropped")
    assert time.monotonic() - began < 5


def test_progress_is_shown_on_a_terminal_only(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = str(written(tmp_path, two_sides()))
    assert run("classify", file, "--landmarks", "60")[2] == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes that for a terminal
    status, out, err = run("classify", file, "--landmarks", "60")
    assert status == 0
    assert json.loads(out)["paths"]
    assert "classifying 24 paths" in err


# The file


def refused(tmp_path: Path, columns: dict[str, Any] | pa.Table) -> str:
    with pytest.raises(PathsFileError) as caught:
        read_paths(written(tmp_path, columns))
    message = str(caught.value)
    assert "paths.parquet" in message
    assert "\n" not in message
    return message


GOOD = {"path": ["a", "a"], "t": [0, 1], "vector": [[1.0, 2.0], [3.0, 4.0]]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vector": [[1.0, np.nan], [3.0, 4.0]]}, "row 0 of"),
        ({"vector": [[1.0, 2.0], [np.inf, 4.0]]}, "NaN or an infinity"),
        ({"vector": [[1.0, 2.0], [3.0]]}, "has a vector of 1 numbers, those before it have 2"),
        ({"vector": [[1.0, 2.0], [3.0, None]]}, "(path 'a') has a null in its vector"),
        ({"vector": [[1.0, 2.0], None]}, "column vector of"),
        ({"vector": pa.array([[], []], pa.list_(pa.float64()))}, "an empty vector"),
        ({"vector": [1.0, 2.0]}, "column vector of"),
        ({"vector": [["x"], ["y"]]}, "not a list of numbers"),
        ({"vector": ["x", "y"]}, "is string, not a list of numbers"),
        ({"t": [0, None]}, "column t of"),
        ({"t": [0.0, np.nan]}, "is NaN in row 1"),
        ({"t": ["0", "1"]}, "is string, not a number or time"),
        ({"path": ["a", None]}, "is null in row 1"),
        ({"path": [0.5, 0.5]}, "is double, not text"),
        ({"path": ["a", "b"]}, "path 'a' of"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_sentence(tmp_path: Path, changes: dict[str, Any], words: str):
    assert words in refused(tmp_path, {**GOOD, **changes})


@pytest.mark.parametrize("missing", [["t"], ["path", "vector"]])
def test_columns_that_are_missing_are_named_with_those_that_are_there(tmp_path: Path, missing: list[str]):
    columns = {name: values for name, values in GOOD.items() if name not in missing}
    message = refused(tmp_path, {**columns, "step": [0, 1]})
    assert f"no column{'s' if len(missing) > 1 else ''} {', '.join(missing)} among" in message
    assert "step" in message


def test_a_file_without_rows_is_said_to_be_empty(tmp_path: Path):
    assert "has no rows" in refused(tmp_path, pa.table(GOOD).slice(0, 0))


def test_what_is_no_parquet_file_is_said_not_to_be(tmp_path: Path):
    (tmp_path / "text").write_text("a,b\n1,2\n" * 9)
    (tmp_path / "empty").touch()
    good = written(tmp_path, two_sides())
    (tmp_path / "cut").write_bytes(good.read_bytes()[:-100])
    damaged = bytearray(good.read_bytes())
    damaged[10:2000] = b"\xff" * 1990
    (tmp_path / "damaged").write_bytes(damaged)
    for name, words in (
        ("text", "cannot be read as Parquet"),
        ("empty", "cannot be read as Parquet"),
        ("cut", "cannot be read as Parquet"),
        ("damaged", "damaged"),
        (".", "is a directory"),
    ):
        with pytest.raises(PathsFileError) as caught:
            read_paths(tmp_path / name)
        assert words in str(caught.value), name
        assert "\n" not in str(caught.value), name


def test_a_file_that_is_not_there_gives_one_sentence(run: Run, tmp_path: Path):
    status, out, err = run("classify", str(tmp_path / "missing"))
    assert (status, out, err) == (1, "", f"error: there is no file {tmp_path / 'missing'}\n")


def test_names_that_no_system_takes_give_one_sentence(tmp_path: Path):
    for name, words in (("x" * 300, "File name too long"), ("\udcff.parquet", "is not UTF-8: rename it")):
        with pytest.raises(PathsFileError, match=words):
            read_paths(tmp_path / name)


def test_paths_come_in_the_order_of_t_and_of_their_first_points(tmp_path: Path):
    columns = {
        "path": ["b", "a", "b", "a", "b"],
        "t": [2, 1, 0, 0, 0],
        "vector": [[20.0], [11.0], [0.0], [10.0], [1.0]],
    }
    paths = read_paths(written(tmp_path, columns))
    assert list(paths) == ["b", "a"]
    assert paths["b"].tolist() == [[0.0], [1.0], [20.0]]
    assert paths["a"].tolist() == [[10.0], [11.0]]


@pytest.mark.parametrize(
    "vector",
    [
        pa.list_(pa.float32(), 2),
        pa.list_(pa.float64()),
        pa.large_list(pa.float32()),
        pa.list_(pa.int64(), 2),
        pa.list_(pa.uint8()),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", [pa.string(), pa.dictionary(pa.int32(), pa.string()), pa.int64()], ids=str)
@pytest.mark.parametrize("t", [pa.float32(), pa.timestamp("us", "UTC"), pa.date32(), pa.uint16()], ids=str)
def test_columns_of_many_types_are_read(tmp_path: Path, path: Any, t: Any, vector: Any):
    names = [7, 7, 8, 8]
    table = pa.table(
        {
            "extra": ["x"] * 4,
            "vector": pa.array([[1, 2], [3, 4], [5, 6], [7, 8]], vector),
            "path": pa.array(names if path == pa.int64() else list(map(str, names)), path),
            "t": pa.array([1, 0, 0, 1], pa.int32()).cast(t) if t == pa.date32() else pa.array([1, 0, 0, 1]).cast(t),
        }
    )
    file = tmp_path / "paths.parquet"
    pq.write_table(table, file, row_group_size=3)
    paths = read_paths(file)
    assert {name: points.tolist() for name, points in paths.items()} == {
        "7": [[3.0, 4.0], [1.0, 2.0]],
        "8": [[5.0, 6.0], [7.0, 8.0]],
    }


def test_too_many_points_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = written(tmp_path, two_sides())
    monkeypatch.setattr(limits, "MAX_NUMBERS", 3599)
    with pytest.raises(ValueError, match="1,200 points of 3 numbers are over 3,599 numbers in all"):
        classify_file(file, OPTIONS)
    monkeypatch.setattr(limits, "MAX_NUMBERS", 3600)
    monkeypatch.setattr(classify_worker, "_free_memory", lambda: 1000)
    with pytest.raises(PathsFileError, match="GiB are free"):
        classify_file(file, OPTIONS)


# The tree of merge scales


def test_merges_are_the_single_linkage_also_of_what_never_merges():
    scales = np.array([[0.0, 0.1, np.inf], [0.1, 0.0, np.inf], [np.inf, np.inf, 0.0]])
    rows = merges(scales)
    assert rows[0] == [0.0, 1.0, 0.1]
    assert sorted(rows[1][:2]) == [2.0, 3.0]
    assert rows[1][2] == np.inf
    assert merges(np.zeros((1, 1))) == []


# The process


def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> str:
    (tmp_path / "computation.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "computation"


def test_a_process_that_dies_without_a_word_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for code, words in (
        ("import os; os.kill(os.getpid(), 9)", "for want of memory"),
        ("import os; os.kill(os.getpid(), 11)", "signal SIGSEGV"),
        ("raise RuntimeError('the reason')", "RuntimeError: the reason"),
        ("import sys; sys.exit(3)", "exit status 3"),
    ):
        with pytest.raises(CommandError, match=words):
            run_killable(module(tmp_path, monkeypatch, code), [], timeout=30.0)


def test_a_process_that_hangs_in_c_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A loop that holds the interpreter's lock and ignores the gentle signals."""
    code = (
        "import os, signal, pathlib\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "sum(range(10**12))\n"
    )
    with pytest.raises(TooSlowError):
        run_killable(module(tmp_path, monkeypatch, code), [], timeout=2.0)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_worker_ends_with_the_command_that_started_it(tmp_path: Path):
    """Also when that was killed and could not clean up."""
    fifo = tmp_path / "paths.parquet"
    os.mkfifo(fifo)  # reading it never ends
    worker = subprocess.Popen(
        [sys.executable, "-m", "topowatch_monitor.commands.classify_worker", str(fifo), json.dumps(OPTIONS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert worker.stdout is not None
        assert b"reading" in worker.stdout.readline()
        assert worker.stdin is not None
        worker.stdin.close()
        assert worker.wait(10) == 1
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()


def test_the_worker_ends_in_peace_while_its_parent_lives(tmp_path: Path):
    file = written(tmp_path, two_sides(runs=2))
    worker = subprocess.Popen(
        [sys.executable, "-m", "topowatch_monitor.commands.classify_worker", str(file), json.dumps(OPTIONS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        assert worker.wait(60) == 0
    finally:
        worker.kill()
        worker.wait()
        if worker.stdin is not None:
            worker.stdin.close()


def test_the_worker_ends_by_itself_after_its_time():
    options = json.dumps({**OPTIONS, "timeout": 0.2})
    code = (
        "import sys, time, topowatch_monitor.commands.classify_worker as worker\n"
        "worker.GRACE_SECONDS = 0.1\n"
        "worker.classify_file = lambda *_: time.sleep(60)\n"
        f"worker.main(['x', {options!r}])"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        assert worker.wait(30) == -signal.SIGALRM
    finally:
        worker.kill()
        worker.wait()
        if worker.stdin is not None:
            worker.stdin.close()


def test_the_help_of_the_commands_loads_no_columns_and_no_mathematics():
    """They are for the worker alone."""
    heavy = "{'pyarrow', 'scipy', 'ripser'}"
    code = "import sys; from topowatch_monitor.commands.app import application; application()"
    code += f"; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
