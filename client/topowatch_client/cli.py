"""The commands of the base install: sync, forward and doctor."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from topowatch_client.config import ConfigError, load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from topowatch_client.config import Config
    from topowatch_client.forwarder import Forwarder

_SYNC_SECONDS = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run `topowatch sync | forward | doctor`; return the exit status."""
    options = _parser().parse_args(argv)
    try:
        if options.command == "sync":
            return _sync(options.directory, options.endpoint, options.timeout, quarantined=options.quarantined)
        if options.command == "forward":
            return _forward(options.directory, options.endpoint)
        return _doctor(options.endpoint, as_json=options.json)
    except (ConfigError, OSError) as error:
        print(f"topowatch: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="topowatch", description="Watches deep-learning training: the commands that run beside a training job."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    endpoint_help = (
        "gRPC address of the daemon, HOST:PORT (default: TOPOWATCH_ENDPOINT, topowatch.toml, "
        "or what each job noted beside its samples)"
    )
    sync = commands.add_parser(
        "sync",
        help="send what jobs recorded offline",
        description="Sends everything that lies in a spool directory to the daemon and exits: 0 when all of it was "
        "acknowledged, 1 otherwise. Use it after jobs that ran with TOPOWATCH_MODE=offline or were killed with their "
        "forwarder. What was sent is removed from the directory; running it twice sends nothing twice.",
    )
    sync.add_argument("directory", metavar="DIR", type=Path, help="spool directory (the jobs' TOPOWATCH_SPOOL_DIR)")
    sync.add_argument("--endpoint", metavar="HOST:PORT", help=endpoint_help)
    sync.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=_SYNC_SECONDS,
        help="give up after this long without progress (default: %(default)s)",
    )
    sync.add_argument(
        "--quarantined",
        action="store_true",
        help="also try again what the daemon refused and may take after an upgrade or another setting of its own",
    )
    forward = commands.add_parser(
        "forward",
        help="keep sending what jobs record (sidecar, DaemonSet)",
        description="Sends what jobs write into a spool directory for as long as it runs. Use it beside containers, on "
        "a volume that outlives them; jobs that find it running start no forwarder of their own, and one that a job "
        "has started already is waited for. On SIGTERM it goes on until the jobs have ended and all is sent, for 20 "
        "seconds at most; a second one, or SIGINT, stops it at once. What is not acknowledged stays in the directory.",
    )
    forward.add_argument("directory", metavar="DIR", type=Path, help="spool directory, shared with the jobs")
    forward.add_argument("--endpoint", metavar="HOST:PORT", help=endpoint_help)
    doctor = commands.add_parser(
        "doctor",
        help="check the way from this machine to the daemon",
        description="Checks, as a job here would meet them: Python and torch, the spool directory, the daemon's "
        "address, the connection and the daemon's health. Says in one sentence each what is wrong and what to do. "
        "Exits with 1 when something is.",
    )
    doctor.add_argument("--endpoint", metavar="HOST:PORT", help="daemon to check (default: as a job would choose)")
    doctor.add_argument("--json", action="store_true", help="print the checks as JSON")
    return parser


def _sync(directory: Path, endpoint: str | None, timeout: float, *, quarantined: bool) -> int:
    from topowatch_client.forwarder import Plan, serve
    from topowatch_client.spool import writer_alive, writer_directories

    if not directory.is_dir():
        print(f"topowatch: {directory} is no directory", file=sys.stderr)
        return 1
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    watcher = _Patience(timeout)
    config = load({"endpoint": endpoint})
    plan = Plan(
        grace_seconds=0.0,
        orphan_seconds=math.inf,
        leave_seconds=0.0,
        silence_seconds=0.0,
        include_offline=True,
        quarantined=quarantined,
        wait_for_writers=False,
        endpoint=_chosen_endpoint(config),
    )
    forwarder = asyncio.run(serve(directory, config, plan, watcher.look))
    if forwarder is None:
        print(f"topowatch: a forwarder is shipping {directory} already; it needs no sync", file=sys.stderr)
        return 1
    watcher.end(forwarder)
    left = [path for path in writer_directories(directory) if not writer_alive(path)]
    return 1 if watcher.gave_up or forwarder.stopping or left else 0


class _Patience:
    """Shows progress on stderr and stops a forwarder that makes none."""

    def __init__(self, timeout: float) -> None:
        self.gave_up = False
        self._timeout = timeout
        self._last: tuple[int, int] | None = None
        self._moved_at = time.monotonic()

    def look(self, forwarder: Forwarder) -> None:
        couriers = forwarder.couriers.values()
        now = (sum(c.progress.acked + c.progress.rejected for c in couriers), sum(c.finished for c in couriers))
        if now != self._last:
            self._last, self._moved_at = now, time.monotonic()
            self._show(f"{now[0]} items acknowledged, {now[1]} of {len(forwarder.couriers)} spools done")
        elif time.monotonic() - self._moved_at > self._timeout:
            self.gave_up = True
            forwarder.stop()

    def end(self, forwarder: Forwarder) -> None:
        from topowatch_client import quarantine
        from topowatch_client.courier import REJECTED_LOG

        couriers = forwarder.couriers.values()
        acked, rejected = sum(c.progress.acked for c in couriers), sum(c.progress.rejected for c in couriers)
        self._show(f"{acked} items acknowledged, {rejected} refused")
        for path, courier in forwarder.couriers.items():
            if courier.progress.rejected and (path / REJECTED_LOG).exists():
                self._show(f"{path / REJECTED_LOG} says why items were refused")
                if quarantine.kept(path):
                    self._show(f"{path.name}: `topowatch sync --quarantined {path.parent}` tries some of them again")
            if not courier.drained and not courier.finished:
                self._show(f"{path.name}: {courier.progress.message or 'not all was sent'}")

    def _show(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _forward(directory: Path, endpoint: str | None) -> int:
    from topowatch_client.forwarder import Plan, serve

    if not directory.is_dir():
        print(f"topowatch: {directory} is no directory: make it first, or correct the name", file=sys.stderr)
        return 1
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    config = load({"endpoint": endpoint})
    plan = Plan(stay=True, include_offline=True, endpoint=_chosen_endpoint(config))
    lines = [f"watching {directory.absolute()}, shipping to {plan.endpoint or 'the daemon that each job names'}"]

    def announce(_forwarder: Forwarder) -> None:
        while lines:  # once, and only where no other forwarder holds the directory
            print(lines.pop(), flush=True)

    asyncio.run(serve(directory, config, plan, announce))
    return 0


def _chosen_endpoint(config: Config) -> str | None:
    """Return the endpoint that somebody named here, None if nobody did: then each job's own is used."""
    return config.endpoint if "endpoint" in config.given else None


def _doctor(endpoint: str | None, *, as_json: bool) -> int:
    from topowatch_client.doctor import examine

    checks = examine(endpoint)
    if as_json:
        print(json.dumps([check._asdict() for check in checks], indent=2))
    else:
        for check in checks:
            print(f"{'ok  ' if check.ok else 'FAIL'} {check.name:<10} {check.detail}")
    return 0 if all(check.ok for check in checks) else 1
