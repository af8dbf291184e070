"""`classes` and `compare`, and what `runs` and `show` tell of a path's class."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from group_views import group_view, path_class, run_view
from served import Served
from topowatch_monitor.commands.by_label import by_label

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Run


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.close()


def fill(served: Served, **changes: Any) -> None:
    """A sweep of 14 ended runs in three classes and a live one, half of them at each of two learning rates."""
    group = group_view(**changes)
    views = []
    for one in group["classes"]:
        for number, name in enumerate(one["members"]):
            told = path_class(one["label"], outlier=not one["majority"], p_value=1.0 if one["majority"] else 1e-9)
            results = {"accuracy": 0.97 if one["majority"] else 0.9}
            labels = {"lr": "0.1" if number % 2 else "0.02"}
            views.append(run_view(name, state="ended", path_class=told, results=results, labels=labels))
    live = path_class(None, provisional=True, compatible=[0, 1], distance=0.0, p_value=None)
    served.fleet.update([*views, run_view("still-on", path_class=live, labels={"lr": "0.1"})])
    served.fleet.update_groups([group])


# classes


def test_classes_lays_out_all_that_is_known(run: Run, served: Served):
    fill(served)
    status, out, _ = run("classes", "g", "--url", served.url)
    assert status == 0
    flat = " ".join(out.split())
    for words in (
        "group g 14 ended runs, 1 live",
        "mean accuracy",
        "0 12 0.97 majority seed-0, seed-1",
        "1 1 0.9 noisy",
        "noisy 1 ! 1e-09",
        "smallest p 1e-09; 93 % of the variance",
        "1 0.2 0.8 1e-09",
        "still-on none ~ – 0, 1 –",
        "difference: runs of different classes end with a different accuracy",
        "0.004 within classes, 0.05 between them, p 0.001, within equal lr",
        "×12 runs class 0",
        "─── shuffled class 2, outlier",
    ):
        assert words in flat, words
    assert max(map(len, out.splitlines())) <= 80


def test_classes_as_json_is_what_the_daemon_says(run: Run, served: Served):
    fill(served)
    status, out, _ = run("classes", "g", "--url", served.url, "--json")
    assert status == 0
    told = json.loads(out)
    assert told["outliers"] == ["noisy", "shuffled"]
    assert len(told["members"]) == 15


def test_classes_that_are_withheld_are_said_to_be_with_the_reason(run: Run, served: Served):
    spread = {**group_view()["spread"], "verdict": "abstained", "reason": "one class: nothing to compare"}
    told = {
        "abstained": True,
        "reason": "8 paths: classes need at least 12",
        "outliers": [],
        "bars": [],
        "p_values": [],
    }
    fill(served, spread=spread, **told)
    status, out, _ = run("classes", "g", "--url", served.url)
    assert status == 0
    assert "Classes: abstained, 8 paths: classes need at least 12" in out
    assert "abstained, one class: nothing to compare" in out
    assert "Outliers" not in out
    assert "class 0" not in out
    assert "Scales at which the runs merge" in out


def test_a_group_that_is_not_computed_yet_says_so(run: Run, served: Served):
    served.fleet.update([run_view("a")])
    status, out, _ = run("classes", "g", "--url", served.url)
    assert status == 0
    assert "have not been computed yet" in out
    assert "0 ended runs, 1 live" in out


def test_jobs_that_were_dropped_and_loops_that_never_die_are_told(run: Run, served: Served):
    fill(served, timeouts=2, refused=1, bars=[[0.2, float("inf")], [0.1, 0.3]], merges=merges_without_end())
    _, out, _ = run("classes", "g", "--url", served.url)
    assert "2 computations took too long" in out
    assert "1 computations were too large to be begun" in out
    assert "∞" in out


def test_many_outliers_and_live_runs_are_cut_short(run: Run, served: Served):
    group = group_view()
    group["outliers"] = [f"out-{number}" for number in range(25)]
    live = path_class(0, provisional=True, compatible=[0])
    served.fleet.update([run_view(f"on-{number}", path_class=live) for number in range(120)])
    served.fleet.update_groups([group])
    _, out, _ = run("classes", "g", "--url", served.url)
    assert "and 5 more: the JSON has all" in out
    assert "and 100 more: the JSON has all" in out
    assert len(out.splitlines()) < 90


def merges_without_end() -> list[list[float]]:
    rows = group_view()["merges"]
    return [*rows[:-1], [*rows[-1][:2], float("inf")]]


def test_names_are_never_read_as_markup(run: Run, served: Served):
    classes = [{"label": 0, "majority": True, "members": ["[bold]x[/bold]"]}]
    group = group_view("[red]g", classes=classes, runs=["[bold]x[/bold]"], merges=[], outliers=["[bold]x[/bold]"])
    served.fleet.update([run_view("[bold]x[/bold]", "[red]g", path_class=path_class(0, outlier=True))])
    served.fleet.update_groups([group])
    status, out, _ = run("classes", "[red]g", "--url", served.url)
    assert status == 0
    assert out.count("[bold]x[/bold]") >= 3
    assert "group [red]g" in out


def test_names_of_labels_and_results_are_never_read_as_markup(run: Run, served: Served):
    spread = {**group_view()["spread"], "metric": "[/m]"}
    served.fleet.update([run_view(f"run-{i}", labels={"[/lr]": "[/1]"}, results={"[/m]": 0.5}) for i in range(2)])
    served.fleet.update_groups([group_view(spread=spread)])
    status, out, _ = run("compare", "g", "--by", "[/lr]", "--url", served.url)
    assert status == 0
    assert "[/lr]" in out
    assert "mean [/m]" in out
    status, out, _ = run("classes", "g", "--url", served.url)
    assert status == 0
    assert "mean [/m]" in out


@pytest.mark.parametrize("name", ["nope", "a/b", "..", "", "a b?c#d"])
def test_a_group_that_is_not_there_gives_one_sentence(run: Run, served: Served, name: str):
    status, out, err = run("classes", name, "--url", served.url)
    assert (status, out) == (1, "")
    assert err == (
        f"error: no run of a group {name!r} is known to the daemon at {served.url}: `topowatch runs` lists groups and "
        "runs\n"
    )


def test_a_group_of_several_tenants_wants_to_know_whose(run: Run, served: Served):
    served.fleet.update([run_view(), run_view(tenant="physics")])
    status, _, err = run("classes", "g", "--url", served.url)
    assert status == 1
    assert "'physics'" in err
    assert "--tenant" in err
    assert run("classes", "g", "--tenant", "physics", "--url", served.url)[0] == 0


# runs and show


def test_show_tells_the_class_of_a_run(run: Run, served: Served):
    fill(served)
    _, out, _ = run("show", "noisy", "--url", served.url)
    section = " ".join(out.partition("Path class")[2].split())
    assert section.startswith("class 1 outlier yes p-value 1e-09")
    _, out, _ = run("show", "still-on", "--url", served.url)
    section = " ".join(out.partition("Path class")[2].split())
    assert section.startswith("class none, provisionally outlier no p-value – may belong to 0, 1 off the map by 0")


def test_show_says_why_a_class_is_withheld(run: Run, served: Served):
    served.fleet.update([run_view()])
    _, out, _ = run("show", "a", "--url", served.url)
    assert "Path class: abstained, nothing of this run has been analysed yet" in out


def test_runs_has_a_column_of_classes_where_there_are_any_and_room(
    run: Run, served: Served, monkeypatch: pytest.MonkeyPatch
):
    fill(served)
    assert "class" not in run("runs", "--url", served.url)[1]
    monkeypatch.setenv("COLUMNS", "140")
    out = run("runs", "--url", served.url)[1]
    assert "class" in out
    [line] = [line for line in out.splitlines() if "noisy" in line]
    assert "1 !" in line
    assert "! warning" in line
    served.fleet.update([run_view("a", "other")])
    assert "class" not in run("runs", "--group", "other", "--url", served.url)[1]


# compare


def test_compare_puts_runs_together_by_a_label(run: Run, served: Served, monkeypatch: pytest.MonkeyPatch):
    fill(served)
    status, out, _ = run("compare", "g", "--by", "lr", "--url", served.url, "--json")
    assert status == 0
    told = json.loads(out)
    assert (told["metric"], told["spread"]["verdict"]) == ("accuracy", "difference")
    low, high = told["rows"]
    assert (low["value"], low["runs"], low["with_result"], low["classes"]) == ("0.02", 8, 8, {"0": 6, "1": 1, "2": 1})
    assert low["outliers"] == ["noisy", "shuffled"]
    assert low["mean"] == pytest.approx((6 * 0.97 + 2 * 0.9) / 8)
    assert low["spread"] == pytest.approx(0.0324037)
    assert (high["value"], high["runs"], high["with_result"], high["unclassified"]) == ("0.1", 7, 6, 1)
    monkeypatch.setenv("COLUMNS", "120")
    status, out, _ = run("compare", "g", "--by", "lr", "--url", served.url)
    assert status == 0
    assert "0 ×6, 1 ×1, 2 ×1" in out
    assert "unknown ×1" in out
    assert "Over the classes: difference" in out


def test_compare_and_runs_tell_tenants_apart_that_have_a_group_of_one_name(run: Run, served: Served):
    for tenant, count in (("acme", 2), ("rivals", 3)):
        served.fleet.update(run_view(f"r{number}", tenant=tenant, labels={"lr": "1"}) for number in range(count))
    status, _, err = run("compare", "g", "--by", "lr", "--url", served.url)
    assert status == 1
    assert "acme, rivals" in err.replace("'", "")
    _, out, _ = run("compare", "g", "--by", "lr", "--tenant", "acme", "--url", served.url, "--json")
    assert [row["runs"] for row in json.loads(out)["rows"]] == [2]
    _, out, _ = run("runs", "--tenant", "rivals", "--url", served.url, "--json")
    assert [one["tenant"] for one in json.loads(out)["runs"]] == ["rivals"] * 3
    assert "No run of tenant 'nobody' has" in run("runs", "--tenant", "nobody", "--url", served.url)[1]


def test_values_are_ordered_as_numbers_then_words_then_none():
    values = ["10", "9", "adam", "1e-3", "nan", None]
    runs = [{**run_view(str(value)), "labels": {} if value is None else {"x": value}} for value in values]
    assert [row["value"] for row in by_label(runs, "x", None)] == ["1e-3", "9", "10", "adam", "nan", None]


def test_compare_says_which_labels_and_results_there_are(run: Run, served: Served):
    fill(served)
    status, _, err = run("compare", "g", "--by", "batch", "--url", served.url)
    assert (status, err) == (1, "error: no run of group 'g' has a label 'batch'; their labels are lr\n")
    status, _, err = run("compare", "g", "--by", "lr", "--result", "f1", "--url", served.url)
    assert (status, err) == (1, "error: no run of group 'g' has a result 'f1'; their results are accuracy\n")
    assert "no run of a group 'none'" in run("compare", "none", "--by", "lr", "--url", served.url)[2]


def test_compare_without_any_result_still_counts_classes(run: Run, served: Served):
    served.fleet.update([run_view("a", labels={"lr": "1"}, path_class=path_class(0))])
    status, out, _ = run("compare", "g", "--by", "lr", "--url", served.url)
    assert status == 0
    assert "0 ×1" in out
    assert "mean" not in out
