"""What the daemon says of itself, for machines to read."""

from __future__ import annotations

import json
import logging
import sys

from topowatch_monitor.engine.logs import JsonFormatter


def test_a_line_is_one_object_whatever_is_in_it() -> None:
    try:
        int("odd\nline")
    except ValueError:
        record = logging.LogRecord("topowatch", logging.ERROR, "", 0, 'run %s:\n"', ("x",), sys.exc_info())
    line = JsonFormatter().format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert (found["level"], found["logger"], found["message"]) == ("error", "topowatch", 'run x:\n"')
    assert "ValueError: invalid literal" in found["traceback"]
    assert found["at"].endswith("+00:00")
