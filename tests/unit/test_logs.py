"""What the daemon says of itself: its log for machines, and what it takes of the machine."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from topowatch_monitor.engine.logs import JsonFormatter
from topowatch_monitor.process import own_use


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


def test_what_a_process_takes_grows_with_what_it_does() -> None:
    before = own_use()
    held = bytearray(64 << 20)
    with Path(__file__).open() as _:
        after = own_use()
    assert after.memory_bytes - before.memory_bytes > 32 << 20
    assert after.open_files == before.open_files + 1
    assert after.cpu_seconds >= before.cpu_seconds >= 0
    assert held
