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

from topowatch_monitor.engine.cluster_watch import connects
from topowatch_monitor.engine.logs import set_up_logging
from topowatch_monitor.engine.look import Subject
from topowatch_monitor.engine.loop import FrontLink, run_engine
from topowatch_monitor.engine.parts import parts_of, run_settings
from topowatch_monitor.engine.pool import ClusterLostError, NoCarrierError
from topowatch_monitor.engine.session import kill_session
from topowatch_monitor.engine.settings import HostSettings
from topowatch_monitor.store.disk import OsDisk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from topowatch_monitor.engine.loop import EngineReport
    from topowatch_monitor.engine.pool import ShardPool

log = logging.getLogger("topowatch.engine")

FAREWELL_SECONDS = 15.0
PROBE_SECONDS = 0.5  # between two tries whether there is a cluster to join


class SocketLink(FrontLink):
    """The connection over a stream socket that carries one JSON object a line."""

    def __init__(self, stream: socket.socket) -> None:
        super().__init__()
        self._stream = stream
        self._reported = False
        self._lines = stream.makefile("rb")
        self._take(self._lines.readline())  # the front says where the log ends as soon as we are connected
        threading.Thread(target=self._listen, name="front-link", daemon=True).start()

    def report(self, report: EngineReport) -> None:
        """Send a report to the front."""
        self._reported = True
        self._send(report)

    def tell(self, trouble: str) -> None:
        """Tell the front why there is no report."""
        self._send({"trouble": trouble})

    def _send(self, told: Mapping[str, object]) -> None:
        try:
            self._stream.sendall(json.dumps(told).encode() + b"\n")
        except OSError:
            self.close()

    def close(self) -> None:
        """End the engine; by force after a while, as Ray can hang in a call for minutes and nobody waits for it.

        One that has not reported yet is at its start: it has nothing to save, and ends at once.
        """
        super().close()
        if not self._reported:
            kill_session(os.getsid(0))
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
    if settings.ray_address is not None and not _answers(settings.ray_address, link):
        return
    where = "a Ray of its own" if settings.ray_address is None else f"the Ray cluster at {settings.ray_address}"
    log.info("starting on %s", where)
    try:
        pool = RayPool(settings.shards, run_settings(settings), settings.ray_address, most=settings.most_shards)
    except Exception as error:
        link.tell(f"it cannot start on {where}: {error}")
        raise
    try:
        while not link.closed:
            _run(settings, pool, link)
        if settings.ray_address is None:
            log.info("ending %s", where)
            pool.kill()
    except ClusterLostError as error:
        link.tell(f"{where} is lost: {error}")
        log.error("%s is lost (%s): beginning anew", where, error)
        kill_session(os.getsid(0))  # nothing can be saved, and leaving Ray would wait for what is gone
    finally:
        pool.close()


def _answers(address: str, link: SocketLink) -> bool:
    """Wait for the head of a cluster; return whether it is there, and not the front that has gone."""
    from topowatch_monitor.engine.ray_pool import head_of

    while not link.closed:
        try:
            host, port = head_of(address)
        except (ConnectionError, ValueError) as error:
            why = str(error)
        else:
            if connects((host, port)):
                return True
            why = f"nobody answers at {host}:{port}"
        link.tell(f"there is no Ray cluster to join at {address} ({why}): start one, or leave --ray-address out")
        link.wait(PROBE_SECONDS)
    return False


def _run(settings: HostSettings, pool: ShardPool, link: SocketLink) -> None:
    """Follow the log from what was saved, as long as there is a carrier."""
    try:
        run_engine(parts_of(settings, pool, OsDisk()), link, time.monotonic)
    except NoCarrierError as error:
        link.tell(str(error))


if __name__ == "__main__":
    told = HostSettings(**json.loads(sys.argv[2]))
    set_up_logging(told.log_format)
    main(int(sys.argv[1]), told)
