"""The demo, as a stranger runs it: to its end, and interrupted."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys

import psutil
import pytest

from harness import eventually

RUNS = ("healthy-a", "healthy-b", "hot-lr", "noise-40")


def start(*flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "topowatch_monitor", "demo", *flags],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def family(demo: subprocess.Popen[str]) -> set[psutil.Process]:
    return set(psutil.Process(demo.pid).children(recursive=True))


def trainers(demo: subprocess.Popen[str]) -> int:
    found = 0
    for process in family(demo):
        with contextlib.suppress(psutil.NoSuchProcess):  # one of many short-lived ones
            found += "demo.trainer" in " ".join(process.cmdline())
    return found


@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("steps", [1000, pytest.param(4000, marks=pytest.mark.slow)])
def test_the_demo_ends_with_a_verdict_on_each_run_and_leaves_no_process(steps: int) -> None:
    """Only the longer one, as users see it, lasts until what labels at random do shows."""
    with start("--no-stay", "--steps", str(steps)) as demo:
        seen: set[psutil.Process] = set()
        while demo.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired, psutil.NoSuchProcess):
                seen |= family(demo)
                demo.wait(0.5)
        assert demo.stdout is not None
        said = demo.stdout.read()
    assert demo.returncode == 0, said
    verdict = said[said.index("Verdict") :]
    expected = {"hot-lr": "unstable"} | ({"noise-40": "warning"} if steps == 4000 else {})
    for run in RUNS:
        [line] = re.findall(rf"^ *{run} .*$", verdict, re.MULTILINE)
        assert line.split()[-1] == expected.get(run, "healthy"), line
    assert "loss_rise since step" in verdict
    assert ("overfit since step" in verdict) == ("noise-40" in expected)
    assert "/metrics" in verdict
    assert seen
    assert not psutil.wait_procs(seen, timeout=30)[1]


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_ctrl_c_pressed_twice_in_mid_run_leaves_no_process() -> None:
    with start("--stay") as demo:
        eventually(lambda: trainers(demo) == len(RUNS))
        everyone = eventually(lambda: len(found := family(demo)) > len(RUNS) + 3 and found)
        demo.send_signal(signal.SIGINT)
        eventually(lambda: demo.poll() is not None or len(family(demo)) < len(everyone))
        if demo.poll() is None:
            demo.send_signal(signal.SIGINT)
        assert demo.stdout is not None
        assert "Stopped." in demo.stdout.read()
    assert demo.returncode == 130
    assert not psutil.wait_procs(everyone, timeout=30)[1]
