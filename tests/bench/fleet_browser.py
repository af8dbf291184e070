"""What the page of a daemon with many runs asks of a browser: real headless Chromium, real frames."""

from __future__ import annotations

import tempfile
import time
from bisect import bisect_right
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from chromium import chromium

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

WAIT_SECONDS = 30.0
KEY_SECONDS = 0.4  # between two keys, as somebody types who looks
TYPED = "orbiting-00"
# Long tasks are those of 50 ms and more; an event lasts from the key to the frame that shows what it did.
_OBSERVE = """
window.seen = {rows: null, tasks: [], events: []};
const keep = (list, made) => (entries) => list.push(...entries.getEntries().map(made));
new PerformanceObserver(keep(seen.tasks, (task) => [task.startTime, task.duration])).observe({type: "longtask"});
new PerformanceObserver(keep(seen.events, (event) => event.duration)).observe({type: "event", durationThreshold: 16});
addEventListener("DOMContentLoaded", () => new MutationObserver((_, self) => {
  self.disconnect();
  requestAnimationFrame(() => setTimeout(() => { seen.rows = performance.now(); }));
}).observe(document.getElementById("rows"), {childList: true}));
"""
_ANSWERS = """
return performance.getEntriesByType("resource").filter((each) => each.name.endsWith("api/v1/runs"))
  .map((each) => [each.responseEnd, each.duration, each.decodedBodySize]);
"""


class PageFigures(TypedDict):
    """Milliseconds, but for counts and sizes.

    Attributes:
        rows: from opening the page to the frame that shows the first rows.
        drawn: rows in the table.
        answers: times of the answers of /api/v1/runs that the page waited for.
        size: bytes of the last of them.
        blocked: sum of the long tasks of each refresh after the first.
        first_blocked: of the first one.
        keys: from a key in the filter box to the frame that shows what it did, for each that took 16 ms or more.
    """

    rows: float
    drawn: int
    answers: list[float]
    size: int
    blocked: list[float]
    first_blocked: float
    keys: list[float]


def look(http: str, seconds: float) -> PageFigures:
    """Open the page, leave it open for some seconds, then type into its filter."""
    with tempfile.TemporaryDirectory() as profile:
        browser = chromium(Path(profile))
        try:
            return _look(browser, http, seconds)
        finally:
            browser.quit()


def _look(browser: Chrome, http: str, seconds: float) -> PageFigures:
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _OBSERVE})
    browser.set_window_size(1440, 900)
    browser.get(f"http://{http}/")
    deadline = time.monotonic() + WAIT_SECONDS
    while (rows := browser.execute_script("return seen.rows")) is None:
        if time.monotonic() > deadline:
            raise SystemExit(f"the page shows no row after {WAIT_SECONDS:g} s")
        time.sleep(0.1)
    time.sleep(seconds)
    answers, tasks = browser.execute_script(_ANSWERS), browser.execute_script("return seen.tasks")
    begins = [end - duration for end, duration, _ in answers]
    blocked = [0.0] * len(answers)
    for start, duration in tasks:
        if start >= begins[0]:  # what came before is the page's own beginning
            blocked[bisect_right(begins, start) - 1] += duration
    drawn = browser.execute_script("return document.getElementById('rows').childElementCount")
    browser.execute_script("seen.events.length = 0; document.getElementById('filter').focus()")
    for letter in TYPED:
        browser.switch_to.active_element.send_keys(letter)
        time.sleep(KEY_SECONDS)
    keys = browser.execute_script("return seen.events")
    return {
        "rows": rows,
        "drawn": drawn,
        "answers": [duration for _, duration, _ in answers],
        "size": answers[-1][2],
        "blocked": blocked[1:],
        "first_blocked": blocked[0],
        "keys": keys,
    }
