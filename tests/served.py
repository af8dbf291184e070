"""A real HTTP server over a fleet that a test fills, for commands that ask a daemon."""

from __future__ import annotations

import socket
import threading
import time

import uvicorn

from topowatch_monitor.engine.view import at
from topowatch_monitor.export.fleet import DaemonStats, Fleet
from topowatch_monitor.export.http import create_app


class Served:
    """The server; `url` is where it listens."""

    def __init__(self) -> None:
        self.fleet = Fleet(at)
        app = create_app(self.fleet, stats=DaemonStats, not_ready=list, now=lambda: 1100.0)
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self._server.started and time.monotonic() < deadline:
            time.sleep(0.01)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()
