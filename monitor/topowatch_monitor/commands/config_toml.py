"""The settings in force as a TOML file, each key under what it is for."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

from topowatch_monitor import config, detect_section

if TYPE_CHECKING:
    from topowatch_monitor.config import Loaded

WIDTH = 100


def config_toml(loaded: Loaded) -> str:
    """Write every key with its meaning and its value; one that is unset stands in a comment.

    `serve --config` of the result is told the same settings again.
    """
    lines: list[str] = []
    table = ""
    introductions = detect_section.tables()
    # Keys without a table come first: TOML has no way back out of one.
    for key, value in sorted(loaded.values().items(), key=lambda item: "." in item[0]):
        inside, _, name = key.rpartition(".")
        if inside != table:
            table = inside
            lines += [f"[{table}]", *_comment(introductions[table]), ""]
        origin = loaded.origin[key]
        default = "" if origin == "default" else f" ({origin})"
        lines += _comment(config.meaning(key) + default)
        lines += [f"# {name} =" if value is None else f"{name} = {_written(value)}", ""]
    return "\n".join(lines)


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ")


def _written(value: Any) -> str:
    # JSON's strings, booleans and finite numbers are TOML's; infinite settings there are none.
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else repr(value)
