"""What the commands print with, and how they fail."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.text import Text


class CommandError(Exception):
    """Ends a command with one sentence for people; `status` 1: it failed, 2: it could not begin."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def console() -> Console:
    """Return a console on the present standard output."""
    return Console(highlight=False)


def complain(message: str) -> None:
    """Write an error to standard error."""
    Console(stderr=True, highlight=False).print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)


def print_json(content: Any) -> None:
    """Write indented JSON to standard output."""
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")
