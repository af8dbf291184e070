"""Numbers of a run's lives: on one host they never fall, whatever the clock does; trouble with them stops no run."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from topowatch_client import identity

if TYPE_CHECKING:
    from pathlib import Path

DAY = 86_400.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Days that the clock is off; each number is asked for as by a process that was just started."""
    off = [0.0]
    real = time.time_ns
    monkeypatch.setattr(identity, "_last_incarnation", 0)

    def time_ns() -> int:
        monkeypatch.setattr(identity, "_last_incarnation", 0)
        return real() + int(off[0] * DAY * 1e9)

    monkeypatch.setattr(time, "time_ns", time_ns)
    return off


def test_a_job_that_starts_again_after_the_clock_went_back_gets_a_higher_number(
    tmp_path: Path, clock: list[float]
) -> None:
    numbers = []
    for off in (0.0, -1.0, -1.0, 3.0, 0.0, -20_000.0, 2.0):
        clock[0] = off
        numbers.append(identity.next_incarnation(None, tmp_path))
    assert numbers == sorted(set(numbers))
    assert numbers[3] == pytest.approx(
        time.time() * 1e3 + 2 * DAY * 1e3, abs=2 * DAY * 1e3
    )  # by the clock where it can
    assert numbers[5] == numbers[4] + 1 == numbers[3] + 2


def test_the_number_that_a_job_chooses_is_not_imposed_on_the_host(tmp_path: Path, clock: list[float]) -> None:
    assert identity.next_incarnation(identity.LARGEST, tmp_path) == identity.LARGEST
    assert identity.next_incarnation(None, tmp_path) < 2 * time.time() * 1e3


def test_processes_that_ask_at_once_get_different_numbers(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from topowatch_client import identity; sys.stdin.read(1)\n"
        "print(*(identity.next_incarnation(None, Path(sys.argv[1])) for _ in range(200)))"
    )
    asking = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    given = [[int(number) for number in process.communicate(b"\n")[0].split()] for process in asking]
    assert all(numbers == sorted(numbers) for numbers in given)
    assert len({number for numbers in given for number in numbers}) == 800


@pytest.mark.parametrize("content", [b"", b"not a number", b"\xff" * 40, b"-5\n", b"9" * 30])
def test_what_cannot_be_read_counts_for_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "incarnation").write_bytes(content)
    number = identity.next_incarnation(None, tmp_path)
    assert number < 2 * time.time() * 1e3
    assert int((tmp_path / "incarnation").read_bytes()[:20]) == number


def test_trouble_with_the_file_leaves_the_clock_and_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No directory, a full disk, or a process that was stopped while it held the lock."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    before = identity.next_incarnation(None, tmp_path)
    with (tmp_path / "incarnation").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        began = time.monotonic()
        numbers = [identity.next_incarnation(None, tmp_path)]
        assert time.monotonic() - began < 1
    numbers.append(identity.next_incarnation(None, tmp_path / "nowhere"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        numbers.append(identity.next_incarnation(None, tmp_path))
    assert [before, *numbers] == sorted({before, *numbers})
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 3
    assert all("rests on the clock alone" in warning for warning in warnings)
