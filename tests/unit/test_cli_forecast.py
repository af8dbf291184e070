"""`forecast`: live runs in the order of what they will end with, and what such forecasts were worth."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from forecast_views import forecast, learned_view
from group_views import run_view
from served import Served
from topowatch_monitor.engine.view import no_forecast

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Run


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    made.fleet.update(
        [
            run_view("middling", forecast=forecast(0.91), step=260),
            run_view("best", forecast=forecast(0.95, gap={"value": 0.04, "lower": 0.0, "upper": 0.08}), step=300),
            run_view("worst", forecast=forecast(0.71, target=0.9, misses_target=True), step=270),
            run_view("odd", forecast=no_forecast("it is unlike all runs that were learned from")),
            run_view("done", state="ended", results={"test_accuracy": 0.9}, forecast=no_forecast("it has ended")),
        ]
    )
    made.fleet.update_forecasts([learned_view(), learned_view("other")])
    yield made
    made.close()


def test_live_runs_come_in_the_order_of_their_forecasts(run: Run, served: Served) -> None:
    status, out, _ = run("forecast", "g", "--url", served.url)
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    order = [words[0] for words in lines if words and words[0] in {"best", "middling", "worst"}]
    assert order == ["best", "middling", "worst"]
    assert next(words for words in lines if words[:1] == ["best"])[1:3] == ["300", "0.95"]
    assert next(words for words in lines if words[:1] == ["worst"])[-3:] == ["stop,", "off", "target"]
    assert next(words for words in lines if words[:1] == ["middling"])[-1] == "continue"
    assert "unlike all runs" in out
    assert "done" not in out


def test_a_loss_is_best_when_low(run: Run, served: Served) -> None:
    served.fleet.update_forecasts([learned_view(metric="loss", higher_is_better=False)])
    _, out, _ = run("forecast", "g", "--url", served.url)
    assert out.index("worst") < out.index("middling") < out.index("best ")
    assert "less is better" in out


def test_what_forecasts_were_worth_stands_below(run: Run, served: Served) -> None:
    _, out, _ = run("forecast", "g", "--url", served.url)
    half = next(line.split() for line in out.splitlines() if line.strip().startswith("50 %"))
    assert half == ["50", "%", "0.88", "15", "93", "%", "0.9", "0.89", "0.7", "25", "%", "0"]
    assert "topology is used at 25 %, 50 % of the steps" in out
    assert "learned from 20 ended runs" in out
    assert out.count("What forecasts were worth") == 1


def test_where_nothing_is_forecast_the_reason_is_given(run: Run, served: Served) -> None:
    reason = "3 ended runs have a finite acc: forecasts need at least 12"
    served.fleet.update([run_view("new", "h", forecast=no_forecast(reason))])
    served.fleet.update_forecasts([learned_view("h", metric=None, reason=reason, levels=[])])
    status, out, _ = run("forecast", "h", "--url", served.url)
    assert status == 0
    assert f"abstained, {reason}" in out
    assert "Nothing was learned" in out


def test_json_has_all_of_it_and_an_unknown_group_is_said(run: Run, served: Served) -> None:
    status, out, _ = run("forecast", "g", "--url", served.url, "--json")
    answer = json.loads(out)
    assert status == 0
    assert (answer["abstained"], answer["learned"][0]["runs"]) == (False, 20)
    assert {each["run"]: each["value"] for each in answer["runs"]}["best"] == 0.95
    status, _, error = run("forecast", "nowhere", "--url", served.url)
    assert status == 1
    assert "no run or group 'nowhere'" in error


def test_of_one_run_its_forecast_its_rank_and_what_drives_it_are_shown(run: Run, served: Served) -> None:
    status, out, _ = run("forecast", "best", "--url", served.url)
    assert status == 0
    assert "0.93 to 0.97" in out
    assert "0.04 (0 to 0.08)" in out
    assert "1 of 3 live runs with a forecast: continue" in out
    assert out.index("+0.03  how far it agrees with its siblings") < out.index("−0.01  how the training loss")
    assert "What forecasts were worth" in out
    _, out, _ = run("forecast", "worst", "--url", served.url)
    assert "0.9, out of reach" in out
    assert "3 of 3 live runs with a forecast: stop" in out
    _, out, _ = run("forecast", "odd", "--url", served.url)
    assert "abstained, it is unlike all runs" in out
    _, out, _ = run("forecast", "best", "--group", "g", "--url", served.url, "--json")
    assert json.loads(out)["drivers"] == {"siblings": 0.03, "loss": -0.01}


def test_without_a_name_all_groups_are_shown(run: Run, served: Served) -> None:
    served.fleet.update([run_view("lone", "h", forecast=no_forecast("too early", early=True))])
    status, out, _ = run("forecast", "--url", served.url)
    assert status == 0
    words = next(line.split() for line in out.splitlines() if line.split()[:1] == ["g"])
    assert words == ["g", "test_accuracy", "3", "of", "4", "best", "0.95", "0.93", "to", "0.97", "1"]
    assert "h: nothing has been learned about it yet" in out
    over = next(line.split() for line in out.splitlines() if line.split()[:1] == ["test_accuracy"])
    assert over == ["test_accuracy", "0.75", "0.91", "0.942"]
    _, out, _ = run("forecast", "--url", served.url, "--json")
    assert [group["group"] for group in json.loads(out)["groups"]] == ["g", "h"]


def test_without_a_live_run_that_is_said(run: Run) -> None:
    idle = Served()
    try:
        assert "No run is live" in run("forecast", "--url", idle.url)[1]
    finally:
        idle.close()
