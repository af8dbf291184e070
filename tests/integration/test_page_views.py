"""What the page draws of a group and of a run, and the report that holds it, in a real browser on a real daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from chromium import complaints
from group_runs import named, two_ways
from harness import Daemon, eventually, topowatch
from planned_sender import DIMS, Planned
from sender import Sender
from topowatch_monitor.export import page
from topowatch_protos.v1 import sample_pb2

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from selenium.webdriver import Chrome

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(300)]

SWEEP = "sweep"
EVIL = '<img src=x onerror="window.evil=1">'
OVER, UNDER = two_ways(14, 2, dims=DIMS)
ENDED = named(OVER[:12], UNDER[:1]) | {EVIL: OVER[12]}
SLOW = 120.0  # jobs yield to everything else on the machine
SIDE = 5


def watched(path: NDArray[Any]) -> Iterator[bytes]:
    """Samples of a run on a planned path that has a loss and weights as well."""
    for step, point in enumerate(path):
        sample = sample_pb2.Sample(step=step)
        sample.predictions.sketch.values = point.astype("<f4").tobytes()
        sample.weights.values = (2 * point).astype("<f4").tobytes()
        sample.scalars.add(name="loss", steps=[step], values=[2.0 / (1 + step)])
        yield sample_pb2.Item(schema=1, sample=sample).SerializeToString()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a sweep of 14 ended runs, one of them an outlier, and one that goes on."""
    directory = tmp_path_factory.mktemp("daemon")
    (directory / "topowatch.toml").write_text("atlas_seconds = 1.0\n")
    made = Daemon(directory, "--engine", "inline", "--config", str(directory / "topowatch.toml")).start()
    for run, path in ENDED.items():
        Planned(made, run, path, group=SWEEP).send(end=True)
    live = Planned(made, "live", OVER[13], group=SWEEP)
    live.items = watched(OVER[13])
    live.send(end=False)
    eventually(lambda: len(made.get(f"/api/v1/groups/{SWEEP}/classes")["merges"]) == 13, within=SLOW)
    yield made
    made.stop()


def text_of(browser: Chrome, panel: str) -> str:
    return browser.find_element(By.ID, f"panel-{panel}").text


def count(browser: Chrome, selector: str) -> int:
    return len(browser.find_elements(By.CSS_SELECTOR, selector))


def faults(browser: Chrome) -> list[str]:
    """What the browser complains about, but for drawings that had to be asked for again."""
    return [line for line in complaints(browser) if "the server responded with a status of 503" not in line]


def check_group(browser: Chrome) -> None:
    """All that is drawn of the sweep."""
    eventually(lambda: count(browser, "#panel-map .way") == 15, within=SLOW)
    assert count(browser, "#panel-map .way.live") == 1
    assert count(browser, "#panel-map .way.out") == 1
    assert "b00" in text_of(browser, "map")
    assert count(browser, "#panel-classes .branch") >= 1
    names = [node.text for node in browser.find_elements(By.CSS_SELECTOR, "#panel-classes svg .name.out")]
    assert names == ["b00"]
    assert "class 0, the majority (13)" in text_of(browser, "classes")
    assert count(browser, "#panel-evidence rect.h1") == 1
    roles = {node.aria_role for node in browser.find_elements(By.CSS_SELECTOR, ".panel svg:has(a:not([tabindex]))")}
    assert roles == {"group"}  # in an image nobody would hear of links
    results = browser.find_elements(By.CSS_SELECTOR, "#panel-forecasts circle.result")
    assert len(results) == 14
    assert "1 outlier: b00" in browser.find_element(By.ID, "told").text


def check_run(browser: Chrome) -> None:
    """All that is drawn of the live run."""
    eventually(lambda: count(browser, "#panel-loss path.c0") == 1)
    assert count(browser, "#panel-predictions rect.h0") == min(40, len(OVER[13]) - 1)
    assert count(browser, "#panel-weights rect.h0") == min(40, len(OVER[13]) - 1)
    assert "Nothing is forecast" in text_of(browser, "forecast")
    assert "--slice" in text_of(browser, "slice")
    assert "live" in browser.find_element(By.ID, "told").text


def test_a_group_is_drawn_and_so_is_a_run_and_the_browsers_own_back_works(browser: Chrome, daemon: Daemon) -> None:
    browser.get(f"http://{daemon.http}/")
    eventually(lambda: browser.find_elements(By.LINK_TEXT, SWEEP))[0].click()
    check_group(browser)
    assert EVIL in browser.find_element(By.ID, "rows").text
    browser.find_element(By.LINK_TEXT, "live").click()
    check_run(browser)
    browser.back()
    eventually(lambda: count(browser, "#panel-map .way") == 15, within=SLOW)
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.ESCAPE)
    eventually(lambda: not browser.find_element(By.ID, "focus").is_displayed())
    assert browser.execute_script("return window.evil") is None
    assert faults(browser) == []


def test_a_run_that_goes_on_moves_on_the_map_without_a_reload(browser: Chrome, daemon: Daemon) -> None:
    group, path = "moving", OVER[0]
    writer = Planned(daemon, "first", path, group=group)
    writer.push_until_stored(writer.batch(10))
    browser.get(f"http://{daemon.http}/#group={group}")
    drawn = "return document.querySelector('#panel-map .way.live path.line')?.getAttribute('d').split('L').length"
    eventually(lambda: browser.execute_script(drawn) == 10, within=SLOW)
    browser.execute_script("window.kept = true")
    writer.push_until_stored(writer.batch(10))
    writer.close()
    eventually(lambda: browser.execute_script(drawn) == 20, within=SLOW)
    assert browser.execute_script("return window.kept") is True


@pytest.mark.parametrize("width", [360, 1400])
def test_drawings_fit_the_screen(browser: Chrome, daemon: Daemon, width: int) -> None:
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        for place in (f"#group={SWEEP}", f"#group={SWEEP}&run=live"):
            browser.get("about:blank")
            browser.get(f"http://{daemon.http}/{place}")
            eventually(lambda: count(browser, ".panel svg") >= 2, within=SLOW)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            widest = "return Math.max(...[...document.querySelectorAll('.panel svg')].map((svg) => svg.clientWidth))"
            assert browser.execute_script(widest) <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_slice_of_the_loss_and_flags_are_drawn(browser: Chrome, daemon: Daemon) -> None:
    sender = Sender(daemon.grpc, "sliced", group="slices")
    sender.push_until_stored(sender.batch(5))
    sample = sample_pb2.Sample(step=10_000)
    heights = [float((row - 2) ** 2 + (column - 2) ** 2) for row in range(SIDE) for column in range(SIDE)]
    values = np.array([*heights[:-1], np.inf], dtype="<f4").tobytes()
    plane = sample_pb2.LossSlice(rows=SIDE, columns=SIDE, extent=1.0, values=values, step=10_000, request="mine")
    sample.loss_slice.CopyFrom(plane)
    sender.items = iter([sample_pb2.Item(schema=1, sample=sample).SerializeToString()])
    sender.push_until_stored(sender.batch(1))
    sender.close()
    eventually(lambda: daemon.run("sliced")["landscape"])
    browser.get(f"http://{daemon.http}/#group=slices&run=sliced")
    eventually(lambda: count(browser, "#panel-slice rect:not([height='8'])") == SIDE**2)
    assert count(browser, "#panel-slice rect.lacking") == 1
    assert "basin depth" in text_of(browser, "slice")


def test_a_report_shows_the_same_without_a_daemon_and_asks_nobody_for_anything(
    browser: Chrome, daemon: Daemon, tmp_path: Path
) -> None:
    file = tmp_path / "sweep.html"
    done = topowatch("report", SWEEP, "--url", f"http://{daemon.http}", "-o", str(file))
    assert done.returncode == 0, done.stderr
    assert "15 runs" in done.stdout.replace("\n", " ")
    assert "could not be had" not in done.stdout
    assert file.stat().st_size < 1e6
    browser.get_log("browser")  # what other pages complained of
    browser.get(file.as_uri())
    check_group(browser)
    assert count(browser, "#rows tr") == 15
    browser.find_element(By.LINK_TEXT, "live").click()
    check_run(browser)
    browser.find_element(By.LINK_TEXT, SWEEP).click()
    check_group(browser)
    browser.execute_script("location.hash = 'group=another'")
    eventually(lambda: "not in the report" in browser.find_element(By.ID, "told").text)
    browser.find_element(By.LINK_TEXT, SWEEP).click()
    check_group(browser)
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.execute_script("return window.evil") is None
    assert faults(browser) == []


def test_the_json_of_a_report_opens_from_the_file(browser: Chrome, daemon: Daemon, tmp_path: Path) -> None:
    told = daemon.get(f"/api/v1/groups/{SWEEP}/classes")
    answers = {f"groups/{SWEEP}/classes": told, "runs": daemon.get("/api/v1/runs")}
    stored = {"group": SWEEP, "tenant": told["tenant"], "made_at": 0.0, "answers": answers, "problems": {}}
    (tmp_path / "sweep.html").write_text(page.report(stored), encoding="utf-8")
    browser.get_log("browser")
    browser.get((tmp_path / "sweep.html").as_uri())
    here = browser.current_window_handle
    eventually(lambda: browser.find_element(By.ID, "focus-json")).click()
    there = eventually(lambda: next((each for each in browser.window_handles if each != here), None))
    try:
        browser.switch_to.window(there)
        eventually(lambda: '"merges"' in browser.page_source)
    finally:
        browser.close()
        browser.switch_to.window(here)
    assert faults(browser) == []


def test_a_report_of_what_is_not_there_or_cannot_be_written_leaves_nothing(daemon: Daemon, tmp_path: Path) -> None:
    def report(*arguments: str) -> subprocess.CompletedProcess[str]:
        return topowatch("report", *arguments, "--url", f"http://{daemon.http}")

    unknown = report("nobody", "-o", str(tmp_path / "a.html"))
    assert unknown.returncode == 1
    assert "'nobody'" in unknown.stderr
    refused = report(SWEEP, "-o", str(tmp_path / "nowhere" / "a.html"))
    assert refused.returncode == 1
    assert "cannot write" in refused.stderr
    assert "is a directory" in report(SWEEP, "-o", ".").stderr
    assert list(tmp_path.iterdir()) == []
