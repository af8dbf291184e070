"""docs/detectors.md says what the catalogue says."""

from __future__ import annotations

import pytest

from detectors_page import PAGE, explanations, page
from topowatch_monitor.detect import DETECTORS, Thresholds


def test_the_page_is_what_the_code_makes_of_it() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python tests/detectors_page.py"


def test_the_page_has_every_detector_and_every_threshold() -> None:
    text = page()
    assert all(f"| `{each.name}` | {each.severity} | {each.meaning} |" in text for each in DETECTORS)
    for name, thresholds in vars(Thresholds()).items():
        section = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert all(f"| `{field}` | {value:g} | " in section for field, value in vars(thresholds).items())


@pytest.mark.parametrize("name", vars(Thresholds()))
def test_every_threshold_is_explained_in_words(name: str) -> None:
    thresholds = getattr(Thresholds(), name)
    said = explanations(thresholds)
    assert said.keys() == vars(thresholds).keys()
    assert all(len(text) > 10 for text in said.values())
