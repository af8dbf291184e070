"""A slice of the loss on demand, through real processes: command → daemon → forwarder → job → daemon → command."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import httpx
import pytest

from harness import Daemon, Job, eventually, topowatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def job(inline_daemon: Daemon, start_job: Callable[..., Job]) -> Iterator[Job]:
    """A job that goes on for longer than any test; with a cap of all its time, as its steps take next to none."""
    settings = {"TOPOWATCH_INTERVAL": "64", "TOPOWATCH_MAX_OVERHEAD": "1.0"}
    started = start_job(inline_daemon.grpc, "--steps", "1000000", "--pace", "0.0005", **settings)
    assert started.process.stdout is not None
    reader = threading.Thread(target=started.process.stdout.read)  # it waits where nobody reads what it prints
    reader.start()
    eventually(lambda: inline_daemon.run("job")["step"])
    yield started
    started.kill()
    reader.join()


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("job")
def test_a_job_takes_the_slice_that_somebody_asks_for_and_goes_on(inline_daemon: Daemon) -> None:
    url = f"http://{inline_daemon.http}"
    asked = topowatch("show", "job", "--slice", "--side", "5", "--json", "--url", url)
    assert asked.returncode == 0, asked.stderr
    landscape = json.loads(asked.stdout)["landscape"]
    assert (landscape["side"], len(landscape["values"]), landscape["problem"]) == (5, 25, "")
    assert landscape["basin_depth"] >= 0
    assert landscape["escape_height"] >= 0
    assert min(landscape["values"]) > 0  # cross-entropies
    persistence = inline_daemon.metric("topowatch_landscape_total_persistence", run="job")
    assert persistence == pytest.approx(landscape["total_persistence"])
    shown = topowatch("show", "job", "--url", url)
    assert f"around step {landscape['step']:,}, 5 × 5 points" in shown.stdout
    step = inline_daemon.run("job")["step"]
    eventually(lambda: inline_daemon.run("job")["step"] > step)
    again = topowatch("show", "job", "--slice", "--side", "3", "--json", "--url", url)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["landscape"]["side"] == 3


@pytest.mark.usefixtures("job")
def test_a_form_of_another_site_cannot_ask(inline_daemon: Daemon) -> None:
    """Nor can a body that is no JSON, a side without a centre, or a wish for a run that nobody knows."""
    url = f"http://{inline_daemon.http}/api/v1/runs/job/slice"
    assert httpx.post(url, content='{"side": 5}', headers={"Content-Type": "text/plain"}).status_code == 415
    assert httpx.post(url, content="{", headers={"Content-Type": "application/json"}).status_code == 400
    assert httpx.post(url, json={"side": 4}).status_code == 400
    assert httpx.post(url.replace("job", "nobody"), json={"side": 5}).status_code == 404


def test_a_run_that_has_ended_takes_no_slice(inline_daemon: Daemon, start_job: Callable[..., Job]) -> None:
    start_job(inline_daemon.grpc, "--steps", "20").finish()
    eventually(lambda: inline_daemon.run("job")["state"] == "ended")
    asked = topowatch("show", "job", "--slice", "--url", f"http://{inline_daemon.http}")
    assert asked.returncode == 1
    assert "only a job at work can take a slice" in asked.stderr
