"""`python -m topowatch_monitor`: the same as the command `topowatch`."""

import sys

from topowatch_monitor.cli import main

if __name__ == "__main__":
    sys.exit(main())
