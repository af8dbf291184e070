"""The code in docs/, so that tests can run what users will copy."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def snippet(page: str, heading: str) -> str:
    """Return the first block of Python below a heading."""
    below = (DOCS / page).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1]
    return below.split("```python\n")[1].split("```")[0]
