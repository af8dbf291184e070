"""A real Prometheus and a real Alertmanager on the files that we ship, and somebody who is told."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from harness import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping

DEPLOY = Path(__file__).parents[1] / "deploy" / "prometheus"
SHIPPED = {"daemon": "127.0.0.1:7071", "alertmanager": "127.0.0.1:9093", "receiver": "127.0.0.1:9095"}
PACKAGES = ("prometheus", "prometheus-alertmanager")  # of Debian, which calls the programs so too


def missing() -> str | None:
    """Say which Debian package is not installed, None if both are."""
    absent = [package for package in PACKAGES if shutil.which(package) is None]
    return f"the Debian package {absent[0]} is not installed" if absent else None


def ship(name: str, directory: Path, replace: Mapping[str, str]) -> Path:
    """Copy a shipped file with some texts replaced, each of which has to be in it."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    for old, new in replace.items():
        assert old in text, f"{name} has no {old!r}"
        text = text.replace(old, new)
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


class _Server:
    """A process that serves HTTP on an address of its own."""

    def __init__(self, directory: Path, name: str, address: str, *command: str) -> None:
        self.address = address
        with (directory / f"{name}.log").open("wb") as journal:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=journal, stderr=journal)

    def get(self, path: str, **parameters: str) -> Any:
        return httpx.get(f"http://{self.address}/{path}", params=parameters, timeout=10.0).raise_for_status().json()

    def is_ready(self) -> bool:
        return httpx.get(f"http://{self.address}/-/ready", timeout=2.0).status_code == 200

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


class Prometheus(_Server):
    """A Prometheus on the shipped configuration.

    Args:
        directory: an empty one.
        daemon: HTTP address that it scrapes.
        alertmanager: address that it tells; by default one where nobody listens.
        faster: texts to replace in its configuration.
        rules: texts to replace in the rules.
    """

    def __init__(
        self,
        directory: Path,
        daemon: str,
        *,
        alertmanager: str = "127.0.0.1:1",
        faster: Mapping[str, str] | None = None,
        rules: Mapping[str, str] | None = None,
    ) -> None:
        places = {SHIPPED["daemon"]: daemon, SHIPPED["alertmanager"]: alertmanager}
        config = ship("prometheus.yml", directory, places | dict(faster or {}))
        ship("topowatch.rules.yml", directory, rules or {})
        address = f"127.0.0.1:{free_port()}"
        super().__init__(
            directory, "prometheus", address,
            "prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory}/tsdb",
            f"--web.listen-address={address}",
        )  # fmt: skip

    def get(self, path: str, **parameters: str) -> Any:
        return super().get(f"api/v1/{path}", **parameters)["data"]

    def value(self, query: str) -> float:
        """The one value of an instant query; LookupError if there is not exactly one."""
        result = self.get("query", query=query)["result"]
        if len(result) != 1:
            raise LookupError(f"{query} has {len(result)} results")
        return float(result[0]["value"][1])

    def firing(self) -> list[dict[str, str]]:
        """Labels of the firing alerts."""
        return [alert["labels"] for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"]


class Alertmanager(_Server):
    """An Alertmanager on the shipped routes.

    Args:
        directory: an empty one.
        receiver: address of the webhooks.
        faster: texts to replace in its configuration.
    """

    def __init__(self, directory: Path, receiver: str, *, faster: Mapping[str, str] | None = None) -> None:
        config = ship("alertmanager.yml", directory, {SHIPPED["receiver"]: receiver, **(faster or {})})
        address = f"127.0.0.1:{free_port()}"
        super().__init__(
            directory, "alertmanager", address,
            "prometheus-alertmanager", f"--config.file={config}", f"--storage.path={directory}/alertmanager",
            f"--web.listen-address={address}", "--cluster.listen-address=",
        )  # fmt: skip

    def alerts(self) -> list[dict[str, Any]]:
        """Every alert that has not ended, with labels, and in `status` its state and what inhibits it."""
        found: list[dict[str, Any]] = self.get("api/v2/alerts")
        return found


@dataclass(frozen=True)
class Notice:
    """What a webhook was told: when (Unix seconds), which one, and the body."""

    at: float
    path: str
    body: dict[str, Any]

    def alerts(self, status: str = "firing") -> list[dict[str, Any]]:
        return [alert for alert in self.body["alerts"] if alert["status"] == status]


class Receiver:
    """Takes the webhooks of both receivers, in memory."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        notices = self.notices

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                at = time.time()
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                notices.append(Notice(at, self.path.strip("/"), body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
