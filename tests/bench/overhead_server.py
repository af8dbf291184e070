"""A recording ingest server in a process of its own; prints its address and serves until its input ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from client_daemon import RecordingDaemon

if __name__ == "__main__":
    os.nice(10)
    daemon = RecordingDaemon().start()
    print(daemon.endpoint, flush=True)
    sys.stdin.read()
    daemon.stop()
