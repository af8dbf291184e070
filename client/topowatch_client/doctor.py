"""Checks the way from this machine to the daemon, one step after the other, each with a sentence that helps."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import socket
import sys
import tempfile
from typing import TYPE_CHECKING, NamedTuple

import grpc

from topowatch_client.config import Config, ConfigError, load
from topowatch_client.transport import OPTIONS, Access

if TYPE_CHECKING:
    from pathlib import Path

_SECONDS = 5.0
_HEALTH_METHOD = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}


class Check(NamedTuple):
    """One thing that was looked at; `detail` says what was found and, if it is wrong, what to do."""

    name: str
    ok: bool
    detail: str


def examine(endpoint: str | None = None) -> list[Check]:
    """Run all checks in order; those behind a failed one of the connection are left out.

    Args:
        endpoint: The daemon's address (default: what a job here would use).
    """
    checks = [_python(), _torch()]
    try:
        config = load({"endpoint": endpoint})
    except ConfigError as error:
        return [*checks, Check("settings", False, f"{error}: correct it, jobs here run unwatched until then.")]
    checks.append(_settings(config))
    checks.append(_spool(config.spool_dir, config.spool_max_bytes))
    host, _, port = config.endpoint.rpartition(":")
    host = host.strip("[]")
    checks.append(_resolves(host))
    if checks[-1].ok:
        checks.append(_connects(host, int(port)))
    if checks[-1].ok:
        checks.append(_health(Access.of_writer({}, config, None)))
    return checks


def _python() -> Check:
    return Check("python", True, f"Python {platform.python_version()} in {sys.prefix}")


def _torch() -> Check:
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return Check("torch", False, "torch is not installed here: run doctor in the training job's own environment.")
    return Check("torch", True, f"torch {version}")


def _settings(config: Config) -> Check:
    if config.mode == "disabled":
        return Check("settings", False, "mode is disabled: unset TOPOWATCH_MODE, or jobs here run unwatched.")
    if config.mode == "offline":
        return Check("settings", True, "mode is offline: jobs keep their samples until `topowatch sync`")
    return Check("settings", True, f"mode online, endpoint {config.endpoint}, group {config.group}")


def _spool(directory: Path, max_bytes: int) -> Check:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"topowatch")
            file.flush()
    except OSError as error:
        return Check(
            "spool", False, f"{directory} cannot be written ({error}): set TOPOWATCH_SPOOL_DIR to one that can."
        )
    used = sum(path.stat().st_size for path in directory.glob("*/*") if path.is_file())
    free = shutil.disk_usage(directory).free
    if free < max_bytes:
        wanted = f"a job may spool {max_bytes >> 20} MiB"
        return Check(
            "spool", False, f"{directory} has {free >> 20} MiB free, {wanted}: make room or lower spool_max_bytes."
        )
    return Check("spool", True, f"{directory}: {used >> 10} KiB waiting, {free >> 20} MiB free")


def _resolves(host: str) -> Check:
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError as error:
        return Check("address", False, f"{host} does not resolve ({error}): check TOPOWATCH_ENDPOINT or the DNS.")
    return Check("address", True, f"{host} is {', '.join(sorted(found))}")


def _connects(host: str, port: int) -> Check:
    try:
        with socket.create_connection((host, port), timeout=_SECONDS):
            return Check("connection", True, f"TCP connects to {host}:{port}")
    except ConnectionRefusedError:
        advice = "start it with `topowatch serve`, or correct the port"
        return Check("connection", False, f"nothing listens on {host}:{port}: {advice}.")
    except OSError as error:
        return Check("connection", False, f"{host}:{port} is not reached ({error}): check firewall and network policy.")


def _health(access: Access) -> Check:
    try:
        metadata = access.metadata()
        if access.secure:
            channel = grpc.secure_channel(access.endpoint, access.credentials(), options=OPTIONS)
        else:
            channel = grpc.insecure_channel(access.endpoint, options=OPTIONS)
    except OSError as error:
        return Check("daemon", False, f"a token or certificate file cannot be read ({error}): correct its path.")
    with channel:
        # Called by its wire format, so that the light install needs no further package.
        call = channel.unary_unary(_HEALTH_METHOD, request_serializer=None, response_deserializer=None)
        try:
            answer = call(b"", timeout=_SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            return Check("daemon", False, _explain(error, access))
    if answer != _SERVING:
        return Check("daemon", False, "the daemon is up but not serving: see its log and /-/ready.")
    return Check("daemon", True, f"healthy{', with TLS' if access.secure else ''}")


def _explain(error: grpc.RpcError, access: Access) -> str:
    code, detail = error.code(), error.details()
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        advice = "check the token" if access.token or access.token_file else "set TOPOWATCH_TOKEN"
        return f"the daemon refuses us ({detail}): {advice}."
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return f"something other than topowatch answers on {access.endpoint}: check the port (gRPC, not HTTP)."
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return (
            f"the daemon does not answer within {_SECONDS:.0f} s: it is overloaded, or the port is another service's."
        )
    tls = "TLS is on here; is it on there?" if access.secure else "TLS is off here; does the daemon want it?"
    return f"the gRPC call failed ({code.name}: {detail}): check that the port is the daemon's. {tls}"
