"""Whether two views of a run agree: discrete fields exactly, floats to a relative tolerance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

RELATIVE_TOLERANCE = 1e-6


class Difference(NamedTuple):
    """A field on which two views disagree; `field` is its path, with dots."""

    field: str
    first: Any
    second: Any


def differences(first: Any, second: Any, *, tolerance: float = RELATIVE_TOLERANCE) -> list[Difference]:
    """Return every field on which two JSON-like values disagree; NaN agrees with NaN."""
    return _compare("", first, second, tolerance)


def _compare(field: str, first: Any, second: Any, tolerance: float) -> list[Difference]:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        found = []
        for key in sorted({*first, *second}, key=str):
            path = f"{field}.{key}" if field else str(key)
            found += _compare(path, first.get(key), second.get(key), tolerance)
        return found
    if _is_list(first) and _is_list(second) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return [one for index, (a, b) in pairs for one in _compare(f"{field}[{index}]", a, b, tolerance)]
    return [] if _agree(first, second, tolerance) else [Difference(field, first, second)]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _agree(first: Any, second: Any, tolerance: float) -> bool:
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, float) or isinstance(second, float):
        if not isinstance(first, int | float) or not isinstance(second, int | float):
            return False
        if math.isnan(first) or math.isnan(second):
            return math.isnan(first) and math.isnan(second)
        return math.isclose(first, second, rel_tol=tolerance)
    return bool(first == second)
