"""JSON as every parser reads it: NaN and infinities, for which it has no words, become null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import orjson


def dumps(content: Any) -> bytes:
    """Encode as JSON with null for NaN and infinities, text that is no UTF-8 with "?" for what is none."""
    try:
        return orjson.dumps(content)
    except TypeError:  # that text, whole numbers of over 64 bits, NumPy's numbers, keys that are no text
        text = json.dumps(_finite(content), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
