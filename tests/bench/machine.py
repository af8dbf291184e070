"""One line about the machine, for every table of figures."""

from __future__ import annotations

import os
import platform
import time


def machine() -> str:
    """Processor kind, cores, system and date."""
    date = time.strftime("%Y-%m-%d")
    return f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, {date}"
