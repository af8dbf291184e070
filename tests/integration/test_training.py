"""A real training against a real daemon: what arrives, and that training never notices."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from harness import Daemon, Job, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = 120
NOWHERE = "127.0.0.1:9"  # the discard port: nothing listens there


@pytest.fixture(scope="module")
def bare_losses(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Losses of the same job without topowatch."""
    job = Job(tmp_path_factory.mktemp("bare"), NOWHERE, ("--bare", "--steps", str(STEPS)), {})
    job.finish()
    job.close()
    return job.losses.read_text()


def analysed(run: dict[str, Any]) -> dict[str, Any] | None:
    """The run, once the engine has seen all that ingest has."""
    return run if run["analysed"] == run["samples"] else None


def test_every_sample_of_a_training_arrives_and_the_losses_are_bit_identical(
    inline_daemon: Daemon, start_job: Callable[..., Job], bare_losses: str
) -> None:
    job = start_job(inline_daemon.grpc, "--steps", str(STEPS))
    job.finish()
    assert job.losses.read_text() == bare_losses
    run = eventually(lambda: (found := inline_daemon.run("job"))["state"] == "ended" and analysed(found))
    assert run["samples"] == STEPS + 1  # the closing one brings the last loss
    assert run["step"] == STEPS - 1
    assert run["dropped"] == run["rejected"] == 0
    assert run["results"] == {"test_accuracy": 0.5}
    assert run["loss"] == pytest.approx(float.fromhex(bare_losses.splitlines()[-1]))
    assert run["path"]["length"] > 0
    assert 0 < run["path"]["h0_total_persistence"] <= run["path"]["length"] * (1 + 1e-6)
    assert run["representation"]["length"] > 0
    assert inline_daemon.metric("topowatch_run_step", group="tests", run="job") == STEPS - 1
    assert inline_daemon.metric("topowatch_ingest_samples_total") == STEPS + 1


def test_the_losses_are_bit_identical_with_the_daemon_down(start_job: Callable[..., Job], bare_losses: str) -> None:
    job = start_job(NOWHERE, "--steps", str(STEPS))
    job.finish()
    assert job.losses.read_text() == bare_losses


def test_the_losses_are_bit_identical_with_the_daemon_killed_in_mid_run_and_nothing_is_lost(
    inline_daemon: Daemon, start_job: Callable[..., Job], bare_losses: str
) -> None:
    job = start_job(inline_daemon.grpc, "--steps", str(STEPS), "--pace", "0.02")
    job.wait_for_step(20)
    eventually(lambda: inline_daemon.run("job")["samples"] > 0)
    inline_daemon.kill()
    job.finish()
    assert job.losses.read_text() == bare_losses
    inline_daemon.start()
    run = eventually(lambda: (found := inline_daemon.run("job"))["state"] == "ended" and found)
    assert run["samples"] == STEPS + 1  # the closing one brings the last loss
    assert run["dropped"] == 0


def test_the_spool_of_a_killed_trainer_still_arrives(
    make_daemon: Callable[..., Daemon], start_job: Callable[..., Job]
) -> None:
    """The daemon is stopped meanwhile, so the samples are in the spool alone when the trainer dies."""
    daemon = make_daemon("--engine", "inline")
    daemon.stop()
    job = start_job(daemon.grpc, "--pace", "0.01", "--steps", "100000")
    job.wait_for_step(50)
    job.kill()
    daemon.start()
    run = eventually(lambda: (found := daemon.run("job"))["step"] is not None and found["step"] >= 49 and found)
    assert run["samples"] >= 50
    assert run["state"] == "live"


@pytest.mark.slow  # the outage is one of half a minute
def test_an_outage_of_the_daemon_loses_nothing(
    make_daemon: Callable[..., Daemon], start_job: Callable[..., Job]
) -> None:
    """The daemon is stopped for 30 s; training goes on."""
    daemon = make_daemon("--engine", "inline")
    steps = 400
    job = start_job(daemon.grpc, "--pace", "0.1", "--steps", str(steps))
    job.wait_for_step(10)
    eventually(lambda: daemon.run("job")["samples"] > 0)
    daemon.stop()
    job.wait_for_step(310)
    daemon.start()
    job.finish()
    run = eventually(lambda: (found := daemon.run("job"))["state"] == "ended" and found, within=90)
    assert run["samples"] == steps + 1
    assert run["dropped"] == 0


def test_a_job_that_resumes_from_an_older_checkpoint_supersedes_what_came_after_it(
    inline_daemon: Daemon, start_job: Callable[..., Job], tmp_path: object
) -> None:
    """Steps 60 to 89 happen twice; the path holds them once, the log keeps both."""
    checkpoint = f"{tmp_path}/checkpoint.pt"
    first = start_job(inline_daemon.grpc, "--steps", "90", "--checkpoint", checkpoint)
    first.wait_for_step(89)
    eventually(lambda: inline_daemon.run("job")["step"] == 89)
    first.process.send_signal(signal.SIGKILL)
    second = start_job(inline_daemon.grpc, "--steps", "100", "--checkpoint", checkpoint)
    second.finish()
    run = eventually(lambda: (found := inline_daemon.run("job"))["step"] == 99 and found["state"] == "ended" and found)
    assert run["samples"] >= 90 + 40
    assert run["path"]["points"] == 100
