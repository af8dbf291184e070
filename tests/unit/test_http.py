"""The HTTP application."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import httpx
import pytest

from group_views import group_view, path_class
from topowatch_monitor.engine.look import CloseUp, Subject
from topowatch_monitor.engine.view import at
from topowatch_monitor.export.closeups import Viewer
from topowatch_monitor.export.fleet import DaemonStats, Fleet, IngestSummary, unseen
from topowatch_monitor.export.http import create_app
from topowatch_monitor.export.strict_json import dumps

NOW = 1_000_000.0


def view(run: str = "a", group: str = "g", **changes: Any) -> Any:
    made = unseen(IngestSummary(tenant="", group=group, run=run, samples=0, last_received_at=NOW))
    return {**made, "step": 40, "samples": 10, "loss": 0.5, **changes}


class Daemon:
    """An application over a fleet that the test fills, asked in memory."""

    def __init__(self) -> None:
        self.fleet = Fleet(at)
        self.reasons: list[str] = []
        self.late: list[str] = []
        self.asked: list[tuple[str, str, int]] = []
        self.looks: list[Subject] = []
        self.problem = ""
        self.viewer = Viewer(self.look)
        self._app = create_app(
            self.fleet,
            stats=DaemonStats,
            not_ready=lambda: self.reasons,
            late=lambda: self.late,
            now=lambda: NOW,
            version="1.2.3",
            ask=self.ask,
            viewer=self.viewer,
        )

    def ask(self, run: Any, side: int) -> str:
        self.asked.append((run["group"], run["run"], side))
        return "the id"

    def look(self, subject: Subject) -> None:
        """Draw as an engine that knows every group, and all runs but `gone`."""
        self.looks.append(subject)
        answer = None if self.problem or subject.run == "gone" else {"drawn": subject.run or subject.group}
        close_up: CloseUp = {"subject": list(subject), "answer": answer, "problem": self.problem}
        asyncio.get_running_loop().call_soon(self.viewer.take, [close_up])

    def get(
        self, path: str, method: str = "GET", headers: dict[str, str] | None = None, body: str | None = None
    ) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://daemon") as client:
                return await client.request(method, path, headers=headers, content=body)

        return asyncio.run(ask())


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


def test_runs_are_listed_in_order_and_by_group(daemon: Daemon):
    daemon.fleet.update([view("b", "g2"), view("a", "g1")])
    answer = daemon.get("/api/v1/runs").json()
    assert answer["now"] == NOW
    assert [run["run"] for run in answer["runs"]] == ["a", "b"]
    assert [run["run"] for run in daemon.get("/api/v1/runs?group=g2").json()["runs"]] == ["b"]


def test_a_run_has_the_fields_that_others_depend_on(daemon: Daemon):
    flag = {"detector": "loss_rise", "severity": "critical", "since_step": 3, "reason": "because"}
    daemon.fleet.update([view(flags=[flag], minimum_unstable=True)])
    run = daemon.get("/api/v1/runs/a").json()
    for name in ("run", "group", "labels", "state", "step", "samples", "dropped", "minimum_unstable", "verdict"):
        assert name in run
    assert run["instability_score"] is None
    assert run["flags"] == [flag]
    assert {"length", "h0_total_persistence", "h1_total_persistence", "dimension"} <= run["path"].keys()
    assert {"label", "p_value", "outlier", "abstained"} <= run["path_class"].keys()
    assert {"metric", "value", "lower", "upper", "abstained", "reason"} <= run["forecast"].keys()


def test_events_are_told_of_the_run_that_is_asked_for_alone(daemon: Daemon):
    """A list of a thousand runs is asked for every few seconds."""
    event = {"step": 3, "detector": "loss_rise", "on": True, "severity": "critical", "reason": "r", "superseded": False}
    daemon.fleet.update([view(events=[event])])
    assert daemon.get("/api/v1/runs/a").json()["events"] == [event]
    assert "events" not in daemon.get("/api/v1/runs").json()["runs"][0]


def test_numbers_that_json_cannot_say_become_null(daemon: Daemon):
    daemon.fleet.update([view(loss=math.nan, scalars={"loss": math.nan, "lr": math.inf, "x": 1.0})])
    run = daemon.get("/api/v1/runs/a").json()
    assert run["loss"] is None
    assert run["scalars"] == {"loss": None, "lr": None, "x": 1.0}


@pytest.mark.parametrize("name", ["with space", "40 % labels", "a?b#c&d=e", "字", "..", '"><script>', "a+b"])
def test_any_allowed_name_can_be_asked_for(daemon: Daemon, name: str):
    daemon.fleet.update([view(name)])
    from urllib.parse import quote

    path = quote(name, safe="").replace("..", "%2E%2E")
    assert daemon.get(f"/api/v1/runs/{path}").json()["run"] == name


def test_an_ambiguous_name_is_answered_with_its_groups(daemon: Daemon):
    daemon.fleet.update([view("a", "g1"), view("a", "g2")])
    answer = daemon.get("/api/v1/runs/a")
    assert answer.status_code == 409
    assert answer.json()["groups"] == ["g1", "g2"]
    assert "?group=" in answer.json()["error"]
    assert daemon.get("/api/v1/runs/a?group=g2").json()["group"] == "g2"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/api/v1/runs/nope", "'nope'"),
        ("/api/v1/runs/a?group=nope", "in group 'nope'"),
        ("/api/v1/groups/nope/classes", "'nope'"),
        ("/api/v1/groups/nope/forecast", "'nope'"),
        ("/api/v1/groups/nope/map", "'nope'"),
        ("/api/v1/runs/nope/shape", "'nope'"),
        ("/nothing/here", "Not Found"),
    ],
)
def test_what_is_not_there_is_answered_in_a_sentence(daemon: Daemon, path: str, words: str):
    daemon.fleet.update([view()])
    answer = daemon.get(path)
    assert answer.status_code == 404
    assert words in answer.json()["error"]


def test_only_reading_is_allowed(daemon: Daemon):
    answer = daemon.get("/api/v1/runs", method="POST")
    assert answer.status_code == 405
    assert "error" in answer.json()


def test_forecasts_of_a_group_abstain_with_a_reason(daemon: Daemon):
    daemon.fleet.update([view("a"), view("b")])
    answer = daemon.get("/api/v1/groups/g/forecast").json()
    assert answer["abstained"] is True
    assert answer["reason"] == "nothing of this run has been analysed yet"
    assert [run["run"] for run in answer["runs"]] == ["a", "b"]
    assert all(run["abstained"] for run in answer["runs"])


def test_classes_of_a_group_are_the_engines_view_with_each_runs_own(daemon: Daemon):
    daemon.fleet.update([view("noisy", path_class=path_class(1, p_value=1e-9, outlier=True)), view("seed-1")])
    daemon.fleet.update_groups([group_view(bars=[[0.2, math.inf]])])
    answer = daemon.get("/api/v1/groups/g/classes").json()
    assert answer["bars"] == [[0.2, None]]
    assert {name: value for name, value in answer.items() if name not in {"members", "bars"}} == {
        name: value for name, value in group_view().items() if name != "bars"
    }
    noisy, calm = answer["members"]
    assert (noisy["run"], noisy["label"], noisy["p_value"], noisy["outlier"]) == ("noisy", 1, 1e-9, True)
    assert (noisy["state"], noisy["results"]) == ("live", None)
    assert calm["abstained"]


def test_classes_that_are_not_computed_yet_are_withheld_with_a_reason(daemon: Daemon):
    daemon.fleet.update([view("a"), view("b")])
    answer = daemon.get("/api/v1/groups/g/classes").json()
    assert (answer["abstained"], answer["version"], answer["live"]) == (True, 0, 2)
    assert "not been computed yet" in answer["reason"]
    assert [run["run"] for run in answer["members"]] == ["a", "b"]


def test_a_group_of_several_tenants_is_answered_with_them(daemon: Daemon):
    daemon.fleet.update([view(), view(tenant="physics")])
    daemon.fleet.update_groups([group_view(), group_view(tenant="physics", version=9)])
    answer = daemon.get("/api/v1/groups/g/classes")
    assert answer.status_code == 409
    assert answer.json()["tenants"] == ["", "physics"]
    assert "?tenant=" in answer.json()["error"]
    assert daemon.get("/api/v1/groups/g/classes?tenant=physics").json()["version"] == 9
    assert daemon.get("/api/v1/groups/g/classes?tenant=").json()["version"] == 3
    assert daemon.get("/api/v1/groups/g/classes?tenant=x").status_code == 404


def test_the_list_of_runs_sums_their_groups_up(daemon: Daemon):
    daemon.fleet.update([view(), view("b", "other")])
    daemon.fleet.update_groups([group_view(), group_view("other", abstained=True, reason="too few", outliers=[])])
    groups = daemon.get("/api/v1/runs").json()["groups"]
    assert groups[0] == {
        "tenant": "",
        "group": "g",
        "abstained": False,
        "reason": "",
        "classes": 3,
        "outliers": ["noisy", "shuffled"],
    }
    assert (groups[1]["abstained"], groups[1]["reason"]) == (True, "too few")
    assert [group["group"] for group in daemon.get("/api/v1/runs?group=other").json()["groups"]] == ["other"]


def test_the_map_of_a_group_and_the_shape_of_a_run_are_what_the_engine_draws(daemon: Daemon):
    daemon.fleet.update([view("a"), view("a", tenant="physics"), view("b", "other")])
    assert daemon.get("/api/v1/groups/other/map").json() == {"drawn": "other"}
    assert daemon.get("/api/v1/runs/b/shape").json() == {"drawn": "b"}
    assert daemon.get("/api/v1/groups/g/map").status_code == 409
    assert daemon.get("/api/v1/runs/a/shape?group=g").status_code == 409
    assert daemon.get("/api/v1/runs/a/shape?group=g&tenant=physics").json() == {"drawn": "a"}
    assert daemon.looks == [Subject("", "other"), Subject("", "other", "b"), Subject("physics", "g", "a")]


def test_what_is_not_drawn_is_answered_with_why(daemon: Daemon):
    daemon.fleet.update([view("gone"), view("there")])
    assert daemon.get("/api/v1/runs/gone/shape").status_code == 503
    assert "nothing of this run" in daemon.get("/api/v1/runs/gone/shape").json()["error"]
    daemon.problem = "it was lost"
    answer = daemon.get("/api/v1/runs/there/shape")
    assert (answer.status_code, answer.json()["error"]) == (503, "it was lost")


def test_readiness_says_why_not_and_health_does_not_care(daemon: Daemon):
    assert daemon.get("/-/ready").status_code == 200
    daemon.reasons = ["the log cannot be written: No space left on device"]
    answer = daemon.get("/-/ready")
    assert answer.status_code == 503
    assert "No space left on device" in answer.text
    assert daemon.get("/-/healthy").status_code == 200


def test_a_daemon_whose_results_come_late_is_ready_and_says_why(daemon: Daemon):
    daemon.late = ["results come late: there is no Ray cluster"]
    answer = daemon.get("/-/ready")
    assert answer.status_code == 200
    assert answer.text == "topowatch is ready\n- results come late: there is no Ray cluster\n"
    assert daemon.get("/api/v1/runs").json()["late"] == daemon.late


def test_metrics_answer_in_the_text_format_while_not_ready(daemon: Daemon):
    daemon.fleet.update([view()])
    daemon.reasons = ["starting"]
    answer = daemon.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'topowatch_run_loss{group="g",run="a"} 0.5\n' in answer.text
    assert 'topowatch_build_info{version="1.2.3"} 1.0\n' in answer.text


@pytest.mark.parametrize("path", ["/", "/metrics", "/api/v1/runs", "/api/v1/runs/nope", "/-/ready", "/nothing"])
def test_every_answer_has_security_headers(daemon: Daemon, path: str):
    headers = daemon.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"]


def test_an_internal_error_shows_no_traceback(daemon: Daemon):
    broken = view()
    del broken["path"]
    daemon.fleet.update([broken])
    answer = daemon.get("/metrics")
    assert answer.status_code == 500
    assert "Traceback" not in answer.text
    assert "internal error" in answer.json()["error"]


def test_text_that_is_no_unicode_does_not_break_json():
    assert b"?" in dumps({"name": "\ud800"})


def ask(daemon: Daemon, body: str = '{"side": 5}', kind: str = "application/json", path: str = "a/slice") -> Any:
    return daemon.get(f"/api/v1/runs/{path}", "POST", {"Content-Type": kind}, body)


def test_a_slice_is_asked_for_of_a_run_at_work(daemon: Daemon):
    daemon.fleet.update([view("a", "g1"), view("a", "g2"), view("over", state="ended")])
    assert ask(daemon).status_code == 409
    answer = ask(daemon, path="a/slice?group=g2")
    assert (answer.status_code, answer.json()) == (202, {"request": "the id", "side": 5})
    assert ask(daemon, path="nobody/slice").status_code == 404
    ended = ask(daemon, path="over/slice")
    assert (ended.status_code, "only a job at work" in ended.json()["error"]) == (409, True)
    assert daemon.asked == [("g2", "a", 5)]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        ('{"side": 5}', "text/plain", 415),
        ("{", "application/json", 400),
        ("[]", "application/json", 400),
        ('{"side": 4}', "application/json", 400),
        ('{"side": 67}', "application/json", 400),
        ('{"side": true}', "application/json", 400),
        ("{}", "application/json", 400),
    ],
)
def test_what_is_no_request_for_a_slice_is_refused_with_a_reason(daemon: Daemon, body: str, kind: str, status: int):
    daemon.fleet.update([view()])
    answer = ask(daemon, body, kind)
    assert answer.status_code == status
    assert answer.json()["error"]
    assert not daemon.asked
