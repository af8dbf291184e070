"""The page in a real browser: what it shows, to whom, and that nothing in a name does anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

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


def complaints(browser: Chrome, daemon: Daemon) -> list[str]:
    """What the browser had to complain about: scripts that failed or were stopped, things that could not be loaded."""
    lines = [line["message"] for line in browser.get_log("browser") if line["level"] in {"SEVERE", "WARNING"}]
    return [line for line in lines if daemon.http in line]


def test_markup_in_names_is_shown_and_not_obeyed(browser: Chrome, inline_daemon: Daemon) -> None:
    evil = EVIL.replace("/", "")
    send(inline_daemon, evil, group=evil)
    browser.get(f"http://{inline_daemon.http}/")
    eventually(lambda: evil in text_of(browser))
    assert browser.execute_script("return window.evil") is None
    assert browser.find_elements(By.CSS_SELECTOR, "main img") == []
    assert complaints(browser, inline_daemon) == []


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
