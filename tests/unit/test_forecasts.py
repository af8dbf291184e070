"""When something is learned for forecasts, what goes into the log, and what comes of jobs that fail."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

import group_jobs
from finished_runs import fleet
from forecast_views import forecast
from group_views import run_view
from topowatch_monitor.engine.forecasts import Forecasts
from topowatch_monitor.engine.groups import LONGEST_PAUSE, GroupSettings
from topowatch_monitor.engine.pool import InlinePool
from topowatch_monitor.engine.view import no_forecast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SETTINGS = GroupSettings(atlas_seconds=60.0, timeout_seconds=30.0)
KEY = ("", "g")


class Told:
    """Stands for the dispatcher: hands out runs, and notes what is published."""

    def __init__(self) -> None:
        self.published: list[tuple[Any, Any]] = []
        self.checks = 0

    def ask(self, method: str, *arguments: Any) -> list[Any]:
        assert (method, *arguments) == ("finished_runs", KEY)
        return [fleet(3)]

    def publish_forecast(self, group: Any, fit: Any) -> None:
        self.published.append((group, fit))

    def check(self) -> None:
        self.checks += 1


@pytest.fixture
def make() -> Iterator[Callable[..., tuple[Forecasts, Told]]]:
    made: list[Forecasts] = []

    def build(**options: Any) -> tuple[Forecasts, Told]:
        told = Told()
        made.append(Forecasts(told, InlinePool(), settings=SETTINGS, **options))
        return made[-1], told

    yield build
    for each in made:
        each.close()


def ended(run: str, **changes: Any) -> Any:
    return run_view(run, state="ended", results={"acc": 0.5}, forecast=no_forecast(""), **changes)


ENOUGH = [f"r{number}" for number in range(12)]


def wait(forecasts: Forecasts, now: float) -> None:
    """Turn until the job that is under way has ended, while the clock stands still."""
    deadline = time.monotonic() + 60
    while forecasts._learning is not None and time.monotonic() < deadline:
        forecasts.tick(now, caught_up=True)
        time.sleep(0.02)


def test_it_learns_once_runs_have_ended_and_everybody_is_told(make: Any) -> None:
    forecasts, told = make()
    forecasts.see([run_view("a", forecast=no_forecast(""))])
    forecasts.tick(0.0, caught_up=True)
    assert forecasts._learning is None
    told.published.clear()
    forecasts.see([ended("a")])
    forecasts.tick(1.0, caught_up=False)
    assert told.published == []
    forecasts.tick(1.0, caught_up=True)
    assert forecasts._learning is None
    assert [fit.reason for _, fit in told.published] == ["1 runs have ended with a result: forecasts need at least 12"]
    forecasts.see(map(ended, ENOUGH))
    forecasts.tick(2.0, caught_up=True)
    assert forecasts._learning is not None
    wait(forecasts, 2.0)
    group, fit = told.published[-1]
    assert group == KEY
    assert fit.reason.startswith("3 ended runs have a finite test_accuracy")
    [view] = forecasts.take_views()
    assert (view["group"], view["metric"], view["levels"]) == ("g", None, [])
    forecasts.see(map(ended, ENOUGH))  # as before
    forecasts.tick(3.0, caught_up=True)
    assert forecasts._learning is None


def test_runs_that_end_meanwhile_are_learned_from_after_a_while(make: Any) -> None:
    forecasts, told = make(learn=group_jobs.learn_nothing)
    forecasts.see(map(ended, ENOUGH))
    forecasts.tick(0.0, caught_up=True)
    forecasts.see([ended("b")])
    wait(forecasts, 1.0)
    forecasts.tick(59.0, caught_up=True)
    assert forecasts._learning is None
    forecasts.tick(62.0, caught_up=True)
    wait(forecasts, 63.0)
    assert len(told.published) == 2


def test_what_takes_long_to_learn_is_learned_seldom(make: Any) -> None:
    """A group costs a twentieth of a core at most, also where runs of it end all the time."""
    forecasts, told = make(learn=group_jobs.learn_nothing)
    forecasts.see(map(ended, ENOUGH))
    forecasts.tick(0.0, caught_up=True)
    wait(forecasts, 10.0)
    forecasts.see([ended("b")])
    forecasts.tick(200.0, caught_up=True)
    assert forecasts._learning is None
    forecasts.tick(211.0, caught_up=True)
    wait(forecasts, 212.0)
    assert len(told.published) == 2


@pytest.mark.parametrize("job", [group_jobs.fail, group_jobs.sleep])
def test_a_job_that_fails_or_hangs_is_tried_again_ever_later(make: Any, job: Any, caplog: Any) -> None:
    forecasts, told = make(learn=job)
    forecasts.see(map(ended, ENOUGH))
    now, pauses = 0.0, []
    for _ in range(3):
        forecasts.tick(now, caught_up=True)
        assert forecasts._learning is not None
        if job is group_jobs.sleep:
            now = forecasts._learning.deadline
        wait(forecasts, now)
        begun, now = now, forecasts._wanting[KEY]
        pauses.append(now - begun)
    assert pauses[1] > 1.5 * pauses[0]
    assert pauses[2] > 1.5 * pauses[1]
    assert max(pauses) <= LONGEST_PAUSE
    assert told.published == []
    assert "nothing was learned for forecasts" in caplog.text


def test_each_new_forecast_of_a_run_goes_into_the_log_once(make: Any) -> None:
    forecasts, _ = make()

    def seen(step: int, at: int | None) -> list[tuple[str, int]]:
        told = no_forecast("too early") if at is None else forecast(0.9, step=at)
        forecasts.see([run_view("a", step=step, forecast=told)])
        return [(made["run"], made["step"]) for made in forecasts.take_made()]

    assert seen(10, None) == []
    assert seen(70, 60) == [("a", 60)]
    assert seen(75, 60) == []
    assert seen(130, 120) == [("a", 120)]
    assert seen(65, 60) == []  # the run went back, and this one is in the log
    assert seen(90, 80) == [("a", 80)]


def test_a_forecast_of_the_gap_goes_into_the_log_beside_that_of_the_metric(make: Any) -> None:
    forecasts, _ = make()
    told = forecast(0.9, step=60, gap={"value": 0.05, "lower": 0.01, "upper": 0.09})
    forecasts.see([run_view("a", step=70, forecast=told)])
    made = [(each["metric"], each["value"], each["lower"], each["upper"]) for each in forecasts.take_made()]
    assert made == [("test_accuracy", 0.9, 0.88, 0.92), ("generalization_gap", 0.05, 0.01, 0.09)]


def test_a_group_with_few_ended_runs_is_learned_from_others_of_its_tenant() -> None:
    """Once three others have enough, and only where a run is live to be told."""
    asked: list[Any] = []

    class Asked(Told):
        def ask(self, method: str, *arguments: Any) -> list[Any]:
            asked.append(arguments)
            return [[]]

    told = Asked()
    forecasts = Forecasts(told, InlinePool(), settings=SETTINGS)
    for group, tenant in (("a", ""), ("b", ""), ("c", "other"), ("c", "")):
        forecasts.see([ended(run, group=group, tenant=tenant) for run in ENOUGH])
    forecasts._wanting.clear()
    forecasts.see([ended("x", group="small")])
    forecasts.tick(0.0, caught_up=True)
    assert asked == []
    assert told.published[-1][0] == ("", "small")
    forecasts.see([run_view("y", group="small", state="live", forecast=no_forecast(""))])
    forecasts.tick(0.0, caught_up=True)
    try:
        assert [(key[1], most) for key, most in asked] == [("small", 60), ("a", 60), ("b", 60), ("c", 60)]
        assert all(key[0] == "" for key, _ in asked)
    finally:
        forecasts.close()


def test_groups_with_few_ended_runs_are_looked_at_again_when_there_is_more_to_learn_from(make: Any) -> None:
    forecasts, _ = make(learn=group_jobs.learn_nothing)
    forecasts.see([run_view("y", group="small", state="live", forecast=no_forecast(""))])
    forecasts.tick(0.0, caught_up=True)
    assert forecasts._wanting == {}
    forecasts.see(map(ended, ENOUGH))
    forecasts.tick(1.0, caught_up=True)
    wait(forecasts, 2.0)
    assert forecasts._wanting == {("", "small"): 62.0}
