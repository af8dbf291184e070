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
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from topowatch_monitor.detect.threshold_tables import thresholds_from
from topowatch_monitor.engine.closeups import Subject
from topowatch_monitor.engine.groups import GroupSettings
from topowatch_monitor.engine.logs import set_up_logging
from topowatch_monitor.engine.loop import FrontLink, run_engine
from topowatch_monitor.engine.parts import parts_of
from topowatch_monitor.engine.path_state import PathSettings
from topowatch_monitor.engine.session import kill_session
from topowatch_monitor.engine.told import RunSettings
from topowatch_monitor.store.disk import OsDisk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from topowatch_monitor.engine.loop import EngineReport

log = logging.getLogger("topowatch.engine")

FAREWELL_SECONDS = 15.0


@dataclass(frozen=True)
class HostSettings:
    """What the engine needs to know, wherever it runs; travels to the host as JSON on its command line."""

    data_dir: str
    shards: int
    ray_address: str | None
    snapshot_seconds: float
    path_window: int
    h1_every: int
    h1_landmarks: int
    history_window: int
    atlas_seconds: float
    homology_timeout_seconds: float
    thresholds: Mapping[str, Mapping[str, float]]  # by detector and name
    log_format: str = "text"

    def run_settings(self) -> RunSettings:
        """How much of each run is looked at, and when detectors fire."""
        path = PathSettings(window=self.path_window, h1_every=self.h1_every, h1_landmarks=self.h1_landmarks)
        return RunSettings(path=path, history=self.history_window, thresholds=thresholds_from(self.thresholds))

    def group_settings(self) -> GroupSettings:
        """How often groups are looked at, and how long a refit may take."""
        return GroupSettings(atlas_seconds=self.atlas_seconds, timeout_seconds=self.homology_timeout_seconds)

    def to_json(self) -> str:
        """Encode for the command line."""
        return json.dumps(asdict(self))


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
    pool = RayPool(settings.shards, settings.run_settings(), settings.ray_address)
    try:
        run_engine(parts_of(settings, pool, OsDisk()), link, time.monotonic)
    finally:
        pool.close()


if __name__ == "__main__":
    told = HostSettings(**json.loads(sys.argv[2]))
    set_up_logging(told.log_format)
    main(int(sys.argv[1]), told)
