"""A headless Chromium for tests and benchmarks."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pathlib import Path

    from selenium.webdriver import Chrome

PROGRAMS = ("chromium", "chromedriver")


def missing() -> str | None:
    """Say which program is not installed; None where all are."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"{absent[0]} is not installed: make system" if absent else None


def chromium(profile: Path) -> Chrome:
    """Start one with a profile of its own; the caller ends it with `quit`."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    # As root there is no sandbox, and a small /dev/shm would end it.
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", f"user-data-dir={profile}", "disable-gpu"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    driver.set_page_load_timeout(30)
    return driver


def complaints(browser: Chrome) -> list[str]:
    """What there was to complain about: scripts that failed or were stopped, things that could not be loaded.

    A page that was open before may complain of its own daemon still.
    """
    here = urlsplit(browser.current_url)
    lines = [line["message"] for line in browser.get_log("browser") if line["level"] in {"SEVERE", "WARNING"}]
    return [line for line in lines if line.startswith(f"{here.scheme}://{here.netloc}/") or not line.startswith("http")]
