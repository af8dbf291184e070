"""Entry point of the `topowatch` command: the client's commands work without the monitor's dependencies."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

CLIENT_COMMANDS = ("sync", "forward", "doctor")
OURS = ("topowatch_monitor", "topowatch_client", "topowatch_protos")
INSTALL = "pip install 'topowatch[monitor]'"
BASE_HELP = f"""\
Usage: topowatch COMMAND [ARGUMENTS]

  sync DIR     send what a spool directory holds, then end
  forward DIR  keep sending what jobs write to a spool directory
  doctor       check this host: torch, spool, daemon

All other commands (serve, demo, runs, show, ...) need the monitor: {INSTALL}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 failed, 2 could not begin."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in CLIENT_COMMANDS:
        from topowatch_client.cli import main as client_main

        return client_main(arguments)
    try:
        from topowatch_monitor.commands.app import run

        return run(arguments)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in OURS:
            raise
        if not arguments or arguments[0] in {"--help", "-h"}:
            sys.stdout.write(BASE_HELP)
            return 0
        command = f"`topowatch {arguments[0]}`"
        sys.stderr.write(f"{command} needs {error.name!r}, which is not installed: {INSTALL}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
