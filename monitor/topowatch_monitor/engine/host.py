"""The engine host: a child process of the daemon and the only Ray driver.

It ends itself when the front goes away (its socket closes), and with it the Ray that it started. Run by the supervisor
as `python -m topowatch_monitor.engine.host`, with an inherited socket and its settings as JSON.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

from topowatch_monitor.engine.logs import set_up_logging
from topowatch_monitor.engine.look import Subject
from topowatch_monitor.engine.loop import FrontLink, run_engine
from topowatch_monitor.engine.parts import parts_of, run_settings
from topowatch_monitor.engine.session import kill_session
from topowatch_monitor.engine.settings import HostSettings
from topowatch_monitor.store.disk import OsDisk

if TYPE_CHECKING:
    from topowatch_monitor.engine.loop import EngineReport

log = logging.getLogger("topowatch.engine")

FAREWELL_SECONDS = 15.0


class SocketLink(FrontLink):
    """The connection over a stream socket that carries one JSON object a line."""

    def __init__(self, stream: socket.socket) -> None:
        super().__init__()
        self._stream = stream
        self._lines = stream.makefile("rb")
        self._take(self._lines.readline())  # the front says where the log ends as soon as we are connected
        threading.Thread(target=self._listen, name="front-link", daemon=True).start()

    def report(self, report: EngineReport) -> None:
        """Send a report to the front."""
        try:
            self._stream.sendall(json.dumps(report).encode() + b"\n")
        except OSError:
            self.close()

    def close(self) -> None:
        """End the engine; by force after a while, as Ray can hang in a call for minutes and nobody waits for it."""
        super().close()
        farewell = threading.Timer(FAREWELL_SECONDS, kill_session, (os.getsid(0),))
        farewell.daemon = True
        farewell.start()

    def _listen(self) -> None:
        for line in self._lines:
            self._take(line)
        self.close()

    def _take(self, line: bytes) -> None:
        told = json.loads(line or b"{}")
        if "durable" in told:
            self.advance(int(told["durable"]))
        if "look" in told:
            self.look(Subject(*told["look"]))


def main(descriptor: int, settings: HostSettings) -> None:
    """Run the engine on Ray until the front closes the socket `descriptor`."""
    from topowatch_monitor.engine.ray_pool import RayPool

    link = SocketLink(socket.socket(fileno=descriptor))
    log.info("starting Ray (%s)", settings.ray_address or "embedded")
    pool = RayPool(settings.shards, run_settings(settings), settings.ray_address)
    try:
        run_engine(parts_of(settings, pool, OsDisk()), link, time.monotonic)
    finally:
        pool.close()


if __name__ == "__main__":
    told = HostSettings(**json.loads(sys.argv[2]))
    set_up_logging(told.log_format)
    main(int(sys.argv[1]), told)
