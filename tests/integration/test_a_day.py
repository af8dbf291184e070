"""A day in the life: two tenants, three groups, twelve runs, one of them spoiled; who is told, and who sees what."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from alert_stack import Alertmanager, Prometheus, Receiver, missing
from harness import Daemon, eventually, unavailable
from topowatch_monitor.simulate import FAILING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from selenium.webdriver import Chrome

GROUPS = {
    "resnet": ("vision", "0"),
    "vit": ("vision", "0.25"),
    "conformer": ("speech", "0"),
}  # tenant, share that fails
SPOILED = {"tenant": "vision", "group": "vit"}
RUNS = 4  # of each group


def train(daemon: Daemon, group: str, failing: str, token: str) -> subprocess.Popen[bytes]:
    """Runs of a group that go on for a minute or two."""
    how = ["--runs", str(RUNS), "--samples", "2000", "--rate", "60", "--failing", failing, "--group", group]
    return subprocess.Popen(
        [sys.executable, "-m", "topowatch_monitor", "simulate", *how, "--endpoint", daemon.grpc],
        env={**os.environ, "TOPOWATCH_TOKEN": token},
        stdout=subprocess.DEVNULL,
    )


def runs_of(alerts: Iterable[Mapping[str, str]]) -> set[tuple[str | None, ...]]:
    """Tenant, group and name of each run that is in the labels of alerts."""
    return {tuple(labels.get(name) for name in ("tenant", "group", "run")) for labels in alerts}


def paged(receiver: Receiver) -> set[tuple[str | None, ...]]:
    """The runs of which somebody has been woken so far."""
    pages = [notice for notice in receiver.notices if notice.path == "page"]
    return runs_of(alert["labels"] for page in pages for alert in page.alerts())


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_a_day(make_daemon: Callable[..., Daemon], browser: Chrome, tmp_path: Path) -> None:
    if (why := missing()) is not None:
        unavailable(why)
    daemon = make_daemon("--engine", "inline")
    tokens = {tenant: daemon.token("--tenant", tenant)["token"] for tenant in ("vision", "speech")}
    scraper = daemon.token("--scope", "admin", "--tenant", "platform")["token"]
    directories = [tmp_path / name for name in ("prometheus", "alertmanager")]
    for directory in directories:
        directory.mkdir()
    receiver = Receiver()
    alertmanager = Alertmanager(directories[1], receiver.address)
    shown = {"honor_labels: false": f"honor_labels: false\n    authorization: {{credentials: {scraper}}}"}
    prometheus = Prometheus(directories[0], daemon.http, alertmanager=alertmanager.address, faster=shown)
    jobs = [train(daemon, group, failing, tokens[tenant]) for group, (tenant, failing) in GROUPS.items()]
    try:
        [(tenant, group, run)] = eventually(lambda: paged(receiver), within=120.0)
        assert {"tenant": tenant, "group": group} == SPOILED
        assert run is not None
        assert run.rpartition("-")[0] in FAILING
        active = [alert["labels"] for alert in alertmanager.alerts() if alert["labels"].get("severity") == "critical"]
        assert {(labels["tenant"], labels["run"]) for labels in active} == {("vision", run)}

        def listed(tenant: str) -> list[tuple[str, str]]:
            headers = {"Authorization": f"Bearer {tokens[tenant]}"}
            answer = httpx.get(f"http://{daemon.http}/api/v1/runs", headers=headers).raise_for_status().json()
            return [(found["group"], found["run"]) for found in answer["runs"]]

        eventually(lambda: len(listed("vision")) == 2 * RUNS)
        assert {group for group, _ in listed("speech")} == {"conformer"}
        assert len(listed("speech")) == RUNS
        theirs = page_of(browser, daemon, tokens["vision"], "vit")
        assert run in theirs
        assert "unstable" in theirs
        others = page_of(browser, daemon, tokens["speech"], "conformer")
        assert "vit" not in others
        assert "resnet" not in others
        assert prometheus.value('count(topowatch_run_info{tenant="speech"})') == RUNS
        assert [job.wait(300) for job in jobs] == [0] * len(jobs)
        ended = 'count(topowatch_run_info{state="ended"})'
        eventually(lambda: prometheus.value(ended) == RUNS * len(GROUPS), within=120.0)
        # Whatever fired at any time, also what Alertmanager has still to tell.
        fired = prometheus.get("query", query='last_over_time(ALERTS{severity="critical"}[1h])')["result"]
        assert runs_of(alert["metric"] for alert in fired) == paged(receiver) == {(tenant, group, run)}
    finally:
        for job in jobs:
            job.kill()
            job.wait()
        for server in (prometheus, alertmanager, receiver):
            server.stop()


def page_of(browser: Chrome, daemon: Daemon, token: str, group: str) -> str:
    """What the page shows to the holder of a token, once it shows a group."""
    browser.get(f"http://{daemon.http}/")
    browser.execute_script("sessionStorage.clear()")
    browser.refresh()
    field = browser.find_element(By.ID, "token")
    eventually(field.is_displayed)
    field.send_keys(token + Keys.ENTER)

    def shown() -> str | None:
        text = str(browser.find_element(By.TAG_NAME, "body").text)
        return text if group in text else None

    return eventually(shown) or ""
