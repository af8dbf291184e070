"""Names as the daemon takes them: what a job calls things is made acceptable rather than refused. Pure functions."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST = 200  # characters of a name, label or label value
_MAX_LABELS = 64
_SHOWN = 40  # characters of a name in a warning
_REFUSED = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, and halves that UTF-8 cannot encode
_REFUSED_IN_KEYS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff/\\\\]")


def of_key(name: str) -> str:
    """Return an acceptable name of a run or group: one that had to be cut ends in a digest, so that two stay two."""
    cleaned = _REFUSED_IN_KEYS.sub("-", name)
    if len(cleaned) > LONGEST:
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        cleaned = f"{cleaned[: LONGEST - 9]}-{digest}"
    return "-" * len(cleaned) if cleaned in {".", ".."} else cleaned


def of_value(name: str) -> str:
    """Return an acceptable name of a scalar, result or layer: printable, not empty, not too long."""
    if 0 < len(name) <= LONGEST and name.isprintable():
        return name
    return "".join(character if character.isprintable() else "-" for character in name[:LONGEST]) or "-"


def of_labels(labels: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return (acceptable labels, what was changed, in words).

    Raises:
        TypeError: A label is no text.
    """
    kept: dict[str, str] = {}
    changes: list[str] = []
    left_out: list[str] = []
    for key, value in labels.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"labels are text: {key!r} = {value!r} is not; write {str(key)!r}: {str(value)!r}")
        name, text = _REFUSED.sub(" ", key)[:LONGEST] or "-", _REFUSED.sub(" ", value)[:LONGEST]
        if len(kept) == _MAX_LABELS or name in kept:
            left_out.append(shown(key))
            continue
        kept[name] = text
        if name != key:
            changes.append(f"label {shown(key)} is {shown(name)}")
        elif text != value:
            changes.append(f"the value of label {shown(key)} is {shown(text)}")
    if left_out:
        changes.append(f"{len(left_out)} labels from {left_out[0]} on are left out, at most {_MAX_LABELS} are kept")
    return kept, changes


def shown(name: str) -> str:
    """Return a name in quotes for a message, cut and with odd characters escaped."""
    return ascii(name) if len(name) <= _SHOWN else f"{name[:_SHOWN]!a}… ({len(name)} characters)"
