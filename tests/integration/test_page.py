"""The page in a real browser: what it shows, to whom, and that nothing in a name does anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from chromium import complaints
from harness import Daemon, eventually
from sender import Sender

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from selenium.webdriver import Chrome

pytestmark = pytest.mark.xdist_group("browser")  # one serves all

EVIL = "<img src=x onerror=\"window.evil='yes'\">"


def send(daemon: Daemon, run: str, group: str = "tests", token: str | None = None) -> None:
    sender = Sender(daemon.grpc, run, group=group, token=token)
    sender.push_until_stored(sender.batch(5))
    sender.close()


def text_of(browser: Chrome) -> str:
    return browser.find_element(By.TAG_NAME, "body").text


def test_markup_in_names_is_shown_and_not_obeyed(browser: Chrome, inline_daemon: Daemon) -> None:
    evil = EVIL.replace("/", "")
    send(inline_daemon, evil, group=evil)
    browser.get(f"http://{inline_daemon.http}/")
    eventually(lambda: evil in text_of(browser))
    assert browser.execute_script("return window.evil") is None
    assert browser.find_elements(By.CSS_SELECTOR, "main img") == []
    assert complaints(browser) == []


def test_a_run_that_begins_appears_without_a_reload_and_a_daemon_that_ends_is_told(
    browser: Chrome, inline_daemon: Daemon
) -> None:
    browser.get(f"http://{inline_daemon.http}/")
    eventually(lambda: "No run has reported yet" in text_of(browser))
    browser.execute_script("window.kept = true")
    send(inline_daemon, "fresh-run")
    eventually(lambda: "fresh-run" in text_of(browser))
    inline_daemon.stop()
    eventually(lambda: "has not answered since" in text_of(browser))
    assert "fresh-run" in text_of(browser)
    assert browser.execute_script("return window.kept") is True


def test_it_loads_nothing_from_elsewhere(browser: Chrome, inline_daemon: Daemon) -> None:
    browser.get(f"http://{inline_daemon.http}/")
    eventually(lambda: "No run has reported yet" in text_of(browser))
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert loaded
    assert all(name.startswith(f"http://{inline_daemon.http}/") for name in loaded)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1400])
def test_it_fits_narrow_screens_in_dark_and_light(
    browser: Chrome, inline_daemon: Daemon, width: int, scheme: str
) -> None:
    send(inline_daemon, "a-run-with-a-rather-long-name-as-launchers-make-them-2026-11-27T21-00-00")
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        browser.get(f"http://{inline_daemon.http}/")
        eventually(lambda: "a-run-with" in text_of(browser))
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        ground, ink = (
            browser.execute_script(f"return getComputedStyle(document.body).{name}")
            for name in ("backgroundColor", "color")
        )
        assert (lightness(ground) > lightness(ink)) == (scheme == "light")
        assert contrast(ground, ink) >= 7
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def lightness(colour: str) -> float:
    """Relative luminance (WCAG 2) of `rgb(…)`."""
    parts = [int(part) / 255 for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((lightness(one), lightness(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_keyboard_finds_filters_and_lets_go(browser: Chrome, inline_daemon: Daemon) -> None:
    for name in ("needle", "hay-1", "hay-2"):
        send(inline_daemon, name)
    browser.get(f"http://{inline_daemon.http}/")
    eventually(lambda: "hay-2" in text_of(browser))
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys("/")
    browser.switch_to.active_element.send_keys("needle")
    eventually(lambda: "hay-1" not in text_of(browser))
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    eventually(lambda: "hay-1" in text_of(browser))


def test_more_runs_than_a_screen_shows_are_all_there_in_order_and_a_filter_may_come_before_they_are(
    browser: Chrome, inline_daemon: Daemon
) -> None:
    for number in range(60):
        send(inline_daemon, f"run-{number}")
    browser.get(f"http://{inline_daemon.http}/")
    names = "return [...document.querySelectorAll('#rows td.name a')].map((each) => each.textContent)"
    everyone = [f"run-{number}" for number in range(60)]
    eventually(lambda: browser.execute_script(names) == everyone)
    # The first rows are drawn when this returns, the others not.
    filtered = "drawn.clear(); $('rows').replaceChildren(); drawRuns(); $('filter').value = arguments[0]; drawRuns(); "
    assert browser.execute_script(filtered + names, "run-5") == ["run-5", *everyone[50:]]
    browser.execute_async_script("setTimeout(arguments[0], 300)")  # they do not come later either
    assert browser.execute_script(names) == ["run-5", *everyone[50:]]
    browser.execute_script("sort = {column: 2, down: true}; $('filter').value = ''; drawRuns()")
    eventually(lambda: browser.execute_script(names) == everyone[::-1])


def test_the_keyboard_keeps_its_place_while_rows_change_and_is_led_to_what_a_link_opens(
    browser: Chrome, inline_daemon: Daemon
) -> None:
    sender = Sender(inline_daemon.grpc, "watched", group="held")
    sender.push_until_stored(sender.batch(5))
    send(inline_daemon, "quiet", group="held")
    browser.get(f"http://{inline_daemon.http}/")
    eventually(lambda: "watched" in text_of(browser))
    link = browser.find_element(By.LINK_TEXT, "watched")
    browser.execute_script("sort = {column: 3, down: true}; drawRuns(); arguments[0].focus()", link)
    held = "return document.activeElement.textContent + runs.find((run) => run.run === 'watched').samples"
    assert browser.execute_script(held) == "watched5"
    sender.push_until_stored(sender.batch(5))
    sender.close()
    eventually(lambda: browser.execute_script(held) == "watched10")
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    eventually(lambda: browser.execute_script("return document.activeElement.id") == "title")
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    eventually(lambda: browser.find_element(By.ID, "title").text == "held")
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    eventually(lambda: not browser.find_element(By.ID, "focus").is_displayed())


def test_escape_leads_from_a_run_to_its_group_whatever_the_table_is_filtered_by(
    browser: Chrome, inline_daemon: Daemon
) -> None:
    send(inline_daemon, "needle", group="stack")
    browser.get(f"http://{inline_daemon.http}/")
    eventually(lambda: "needle" in text_of(browser))
    browser.find_element(By.ID, "filter").send_keys("needle")
    browser.find_element(By.LINK_TEXT, "needle").click()
    eventually(lambda: browser.find_element(By.ID, "title").text == "needle")
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.ESCAPE)
    eventually(lambda: browser.find_element(By.ID, "title").text == "stack")


def test_a_fault_of_the_page_is_told_as_one_and_not_as_a_daemon_that_is_silent(
    browser: Chrome, inline_daemon: Daemon
) -> None:
    browser.get(f"http://{inline_daemon.http}/")
    eventually(lambda: "No run has reported yet" in text_of(browser))
    browser.execute_script("window.drawRuns = () => { throw new Error('planned'); }")
    eventually(lambda: "a fault of this page: Error: planned" in text_of(browser))
    assert "has not answered" not in text_of(browser)
    assert any("planned" in line for line in complaints(browser))


TICKS = {
    "ticks(0, 2e5, 4)": ["0", "50,000", "1e5", "1.5e5", "2e5"],
    "ticks(0.30001, 0.30004, 5)": ["0.30001", "0.30002", "0.30003", "0.30004"],
    "ticks(1e-9, 10, 5, true)": ["1e-9", "1e-6", "0.001", "1"],
    "ticks(...padded([0.3, 0.1 + 0.2]), 5)": ["0.28", "0.3", "0.32"],  # numbers that differ in their last bit
    "ticks(1e17, 1e17 + 16, 5).slice(6)": [],  # steps that add nothing to so large a number
    "ticks(-1e308, 1e308, 5)": [],
}


def test_axes_say_what_is_at_a_tick_and_end(browser: Chrome, inline_daemon: Daemon) -> None:
    browser.get(f"http://{inline_daemon.http}/")
    for axis, said in TICKS.items():
        assert browser.execute_script(f"return {axis}.map(short)") == said, axis


def test_drawings_hold_what_is_at_the_edge_of_what_they_are_of(browser: Chrome, inline_daemon: Daemon) -> None:
    browser.get(f"http://{inline_daemon.http}/")
    # A curve of one value is a dot, a map of what moves along one axis fills its width, letters are not halved,
    # and what every object has is no result of a run.
    drawn = """
      const curve = {name: "loss", steps: [3], means: [1], least: [1], most: [1]};
      const line = drawCurves([curve], [], 400).querySelector("path").getAttribute("d");
      const path = {run: "a", href: "#", told: "a", className: "k0", points: [[-1e-3, 0], [1e-3, 0]]};
      const map = drawMap([path], 400, "");
      const [start, end] = ["start", "end"].map((each) => Number(map.querySelector("." + each).getAttribute("cx")));
      return {dot: line.endsWith("h0"), wide: end - start > 300, cut: cut("😀".repeat(9), 4),
        none: own({}, "constructor"), mine: own({constructor: 1}, "constructor")};
    """
    assert browser.execute_script(drawn) == {"dot": True, "wide": True, "cut": "😀😀…😀", "none": None, "mine": 1}


def test_where_tokens_are_asked_for_so_does_the_page_and_shows_a_tenant_its_own(
    browser: Chrome, make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon: Any = make_daemon("--engine", "inline")
    mine, theirs = (daemon.token("--tenant", tenant)["token"] for tenant in ("vision", "speech"))
    send(daemon, "run-of-vision", token=mine)
    send(daemon, "run-of-speech", token=theirs)
    browser.get(f"http://{daemon.http}/")
    eventually(lambda: "asks for a token" in text_of(browser))
    assert "run-of" not in text_of(browser)
    for shown, said in (("topowatch_wrong", "Not let in"), (mine, "run-of-vision")):
        field = browser.find_element(By.ID, "token")
        field.clear()
        field.send_keys(shown + Keys.ENTER)
        eventually(lambda said=said: said in text_of(browser))
    assert "run-of-speech" not in text_of(browser)
    browser.refresh()
    eventually(lambda: "run-of-vision" in text_of(browser))
    assert mine not in browser.page_source


def test_a_daemon_whose_engine_is_not_there_says_that_results_come_late(
    browser: Chrome, make_daemon: Callable[..., Daemon]
) -> None:
    daemon = make_daemon("--ray-address", "127.0.0.1:1")
    send(daemon, "stored-and-waiting")
    browser.get(f"http://{daemon.http}/")
    eventually(lambda: "stored-and-waiting" in text_of(browser))
    eventually(lambda: "results come late: there is no Ray cluster to join at 127.0.0.1:1" in text_of(browser))
