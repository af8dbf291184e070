"""JSON that every parser reads, whatever is in it."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from topowatch_monitor.export.strict_json import dumps

TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too: names of files may have them
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUES = st.recursive(LEAVES, lambda one: st.lists(one) | st.tuples(one, one) | st.dictionaries(TEXT, one))


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def as_told(value: Any) -> Any:
    """What a parser is to find, the slow obvious way."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {as_told(key): as_told(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_told(item) for item in value]
    return value


class Pair(NamedTuple):
    left: float
    right: float


def test_what_the_fast_way_does_not_know_is_written_all_the_same():
    told = {"scalar": np.float64("nan"), "pair": Pair(1.0, math.inf), 0.5: 1 << 80}
    assert json.loads(dumps(told), parse_constant=refuse) == {"scalar": None, "pair": [1.0, None], "0.5": 1 << 80}


@given(VALUES)
def test_what_is_not_finite_is_null_and_all_else_is_as_it_was(value: Any):
    assert json.loads(dumps(value), parse_constant=refuse) == as_told(value)
