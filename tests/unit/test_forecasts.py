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
from topowatch_monitor.engine.group_forecast import nothing
from topowatch_monitor.engine.groups import LONGEST_PAUSE, GroupSettings
from topowatch_monitor.engine.pool import InlinePool
from topowatch_monitor.engine.view import FORGOTTEN, no_forecast
from topowatch_monitor.forecast.regressor import MOST_RUNS

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
        assert (method, *arguments) == ("finished_runs", KEY, MOST_RUNS)
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
    forecasts.see([ended("b"), run_view("a", forecast=no_forecast(""))])
    told.published.clear()
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


def test_groups_with_few_ended_runs_are_told_what_three_others_teach(make: Any) -> None:
    """It is learned once for all of them, of groups of their tenant, as soon as three have learned by themselves."""
    asked: list[Any] = []

    class Asked(Told):
        def ask(self, method: str, *arguments: Any) -> list[Any]:
            asked.append(arguments)
            return [0]

    told = Asked()
    forecasts = Forecasts(
        told, InlinePool(), settings=SETTINGS, learn=group_jobs.learn_acc, learn_prior=group_jobs.learn_acc_of_others
    )
    try:
        live = [run_view("y", group=group, state="live", forecast=no_forecast("")) for group in ("small", "tiny")]
        forecasts.see([*live, ended("x", group="small", step=99), ended("x", group="odd")])
        forecasts.see([run_view("z", group="small", tenant="other", state="live", forecast=no_forecast(""))])
        forecasts.tick(0.0, caught_up=True)
        assert asked == []
        assert {group: fit.reason for group, fit in told.published}["", "tiny"].startswith("0 runs have ended")
        for now, group in enumerate(("a", "b", "c"), start=1):
            forecasts.see([ended(run, group=group) for run in ENOUGH])
            forecasts.tick(float(now), caught_up=True)
            wait(forecasts, float(now))
        forecasts.tick(5.0, caught_up=True)
        wait(forecasts, 6.0)
        assert asked[-3:] == [(("", group), 40) for group in ("a", "b", "c")]
        found = dict(told.published)
        assert found["other", "small"].metric is None
        assert (found["", "small"].metric, found["", "small"].steps, found["", "tiny"].steps) == ("acc", 100, None)
    finally:
        forecasts.close()


def test_a_group_whose_runs_tell_another_result_is_not_told_of_it(make: Any) -> None:
    forecasts, told = make()
    forecasts._priors[""] = nothing("")._replace(metric="bleu", others=("a", "b", "c"))
    live = run_view("y", group="small", state="live", forecast=no_forecast(""))
    forecasts.see([live, ended("x", group="small")])
    forecasts.tick(0.0, caught_up=True)
    assert "other groups tell bleu, its own runs acc" in dict(told.published)["", "small"].reason


def test_what_was_learned_is_let_go_with_the_last_live_run(make: Any) -> None:
    """It takes megabytes a group; the group's own view keeps what forecasts were worth."""
    forecasts, told = make(learn=group_jobs.learn_acc)
    live = run_view("y", state="live", forecast=no_forecast(""))
    forecasts.see([live, *map(ended, ENOUGH)])
    forecasts.tick(0.0, caught_up=True)
    wait(forecasts, 1.0)
    assert told.published[-1][1].metric == "acc"
    forecasts.see([ended("y")])
    assert told.published[-1][1].reason == "none of its runs is live"
    forecasts.tick(100.0, caught_up=True)
    wait(forecasts, 101.0)
    assert told.published[-1][1].metric is None
    assert forecasts.take_views()[-1]["metric"] == "acc"


def test_a_group_goes_with_the_last_of_its_runs_and_the_prior_with_the_last_group(make: Any) -> None:
    """A run that ended without a result is one, too: the group is told that nothing can be learned of it."""
    forecasts, _ = make(learn=group_jobs.learn_acc)
    forecasts._priors[""] = nothing("")
    plain = run_view("plain", state="ended", results=None, forecast=no_forecast(""))
    forecasts.see([plain, *map(ended, ENOUGH)])
    forecasts.see([run_view(run, state=FORGOTTEN, forecast=no_forecast("")) for run in ENOUGH])
    forecasts.tick(0.0, caught_up=True)
    assert "0 runs have ended with a result" in forecasts.take_views()[-1]["reason"]
    forecasts.see([run_view("plain", state=FORGOTTEN, forecast=no_forecast(""))])
    assert not any((forecasts._groups, forecasts._priors, forecasts._wanting))


def test_a_group_that_is_gone_is_learned_from_no_more(make: Any) -> None:
    forecasts, told = make(learn=group_jobs.learn_acc)
    live = run_view("y", state="live", forecast=no_forecast(""))
    forecasts.see([live, *map(ended, ENOUGH)])
    forecasts.tick(0.0, caught_up=True)
    assert forecasts._learning is not None
    forecasts.see([run_view(run, state=FORGOTTEN, forecast=no_forecast("")) for run in [*ENOUGH, "y"]])
    assert forecasts._learning is None
    published = len(told.published)
    forecasts.tick(1000.0, caught_up=True)
    assert not any((forecasts._groups, forecasts._wanting, forecasts._rests, forecasts._newest, forecasts.take_views()))
    assert len(told.published) == published
