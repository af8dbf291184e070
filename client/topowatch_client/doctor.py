"""Checks the way from this machine to the daemon, one step after the other, each with a sentence that helps."""

from __future__ import annotations

import fcntl
import importlib.metadata
import platform
import shutil
import socket
import ssl
import sys
import tempfile
import time
from typing import TYPE_CHECKING, NamedTuple

import grpc

from topowatch_client import backlog, wire
from topowatch_client.config import Config, ConfigError, load
from topowatch_client.spawn import forwarder_pid, forwarder_running
from topowatch_client.transport import OPTIONS, Access
from topowatch_protos.v1 import ingest_pb2

if TYPE_CHECKING:
    from pathlib import Path

_SECONDS = 5.0
_HEALTH_METHOD = "/grpc.health.v1.Health/Check"
_INGEST_METHOD = "/topowatch.v1.IngestService/PushBatch"
_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}
_EXPIRED, _NOT_YET, _OTHER_NAME = 10, 9, (62, 64)  # X509_V_ERR_… of OpenSSL
_UNSIGNED = (2, 18, 19, 20, 21)  # the same: no way from the certificate to a CA that is trusted


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
    checks += [_settings(config), _spool(config.spool_dir, config.spool_max_bytes)]
    if checks[-1].ok:
        checks.append(_forwarder(config))
    access = Access.of_writer({}, config, None)
    checks.append(_credentials(access))
    credentials = checks[-1].ok
    host, _, port = config.endpoint.rpartition(":")
    host = host.strip("[]")
    checks.append(_resolves(host))
    if checks[-1].ok:
        checks.append(_connects(host, int(port)))
    if checks[-1].ok and credentials:
        checks.append(_speaks(access, host, int(port)))
    if checks[-1].ok and credentials:
        checks += _daemon(access)
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
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                advice = "set TOPOWATCH_SPOOL_DIR to a disk of this machine"
                return Check("spool", False, f"files in {directory} cannot be locked ({error}): {advice}.")
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
    return Check("spool", True, f"{directory}: {used >> 10} KiB in use, {free >> 20} MiB free")


def _forwarder(config: Config) -> Check:
    """Whether somebody ships, how much waits, and what the last trouble was."""
    found = backlog.look(config.spool_dir)
    waiting = f"{found.items} items of {found.writers} jobs wait"
    running = forwarder_running(config.spool_dir)
    pid = forwarder_pid(config.spool_dir)
    who = f"a forwarder runs (process {pid})" if pid else "a forwarder runs" if running else "no forwarder runs"
    if found.items and found.message:
        advice = "the checks below say what to do" if running else "mend that, then `topowatch sync` sends them"
        return Check("forwarder", False, f"{who}, {waiting}, and the last trouble was “{found.message}”: {advice}.")
    if found.stranded and not running:
        advice = f"`topowatch sync {config.spool_dir}` sends what jobs left that are gone, as does the next job"
        return Check("forwarder", False, f"{who} and {waiting}: {advice}.")
    return Check("forwarder", True, f"{who}, {waiting}" if found.items else f"{who}, nothing waits")


def _credentials(access: Access) -> Check:
    try:
        metadata = access.metadata()
    except OSError as error:
        return Check("credentials", False, f"the token cannot be used ({error}): correct TOPOWATCH_TOKEN_FILE.")
    if access.secure:
        try:
            wire.context_of(access)
        except ssl.SSLError as error:
            what = "tls_key is not the key of tls_cert" if "MISMATCH" in (error.reason or "") else str(error)
            named = ", ".join(str(path) for path in (access.tls_ca, access.tls_cert, access.tls_key) if path)
            return Check("credentials", False, f"{what} ({named}): name the right files in TOPOWATCH_TLS_*.")
        except OSError as error:
            return Check("credentials", False, f"a certificate file cannot be read ({error}): correct TOPOWATCH_TLS_*.")
    own = ", with a certificate of our own" if access.tls_cert else ""
    return Check(
        "credentials",
        True,
        f"{'a token' if metadata else 'no token'}, {f'TLS{own}' if access.secure else 'no TLS'}",
    )


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


def _speaks(access: Access, host: str, port: int) -> Check:
    """Whether the port speaks HTTP/2, which gRPC is made of, with the same idea of TLS as we."""
    where = f"{host}:{port}"
    try:
        answer = wire.hear(host, port, _SECONDS, wire.context_of(access) if access.secure else None)
    except ssl.SSLError as error:
        return Check("protocol", False, _explain_tls(error, access, where))
    except TimeoutError:
        silent = f"{where} takes connections and says nothing for {_SECONDS:.0f} s"
        return Check("protocol", False, f"{silent}: the daemon hangs, see its log, or the port is another service's.")
    except OSError as error:
        return Check("protocol", False, _explain_hang_up(error, access, where))
    if wire.is_http2(answer):
        return Check("protocol", True, f"HTTP/2{' over TLS' if access.secure else ''}")
    return Check("protocol", False, _explain_answer(answer, access, host, port))


def _explain_answer(answer: bytes, access: Access, host: str, port: int) -> str:
    where = f"{host}:{port}"
    if answer.lstrip().startswith((b"HTTP/", b"<")):
        advice = "set TOPOWATCH_ENDPOINT to the gRPC port, 7070 unless told otherwise"
        return f"a web server or proxy answers on {where}, not the daemon's gRPC: {advice}."
    if access.secure and not answer:  # TLS 1.3 judges our certificate only now, and gRPC does not say how
        return _explain_refusal("it hangs up", access)
    if not access.secure and wire.speaks_tls(host, port, _SECONDS):
        return f"{where} speaks TLS and we do not: set TOPOWATCH_TLS_CA to the CA that signed the daemon's certificate."
    said = f"says {answer!r}" if answer else "hangs up"
    return f"something other than the daemon is on {where}, it {said}: check the port."


def _explain_tls(error: ssl.SSLError, access: Access, where: str) -> str:
    reason = error.reason or str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        clock = time.strftime("this machine's clock (now %Y-%m-%d %H:%M UTC)", time.gmtime())
        ca = access.tls_ca or "the CAs that this system trusts"
        unsigned = f"{ca} did not sign the daemon's certificate: set TOPOWATCH_TLS_CA to the CA that did."
        other_name = f"the daemon's certificate is for another name ({error.verify_message}): use one that it has."
        return {
            _EXPIRED: f"a certificate of the daemon has expired: renew it, or set {clock}.",
            _NOT_YET: f"a certificate of the daemon is not valid yet: set {clock}, or wait.",
            **dict.fromkeys(_OTHER_NAME, other_name),
            **dict.fromkeys(_UNSIGNED, unsigned),
        }.get(error.verify_code, f"the daemon's certificate is not accepted ({error.verify_message}): renew it.")
    if "ALERT" not in reason:
        advice = "unset TOPOWATCH_TLS_CA, _CERT and _KEY, or switch it on at the daemon"
        return f"{where} does not speak TLS and we do ({reason}): {advice}."
    return _explain_refusal(reason, access)


def _explain_hang_up(error: OSError, access: Access, where: str) -> str:
    if access.secure:
        return f"{where} hangs up on TLS ({error}): unset TOPOWATCH_TLS_CA, _CERT and _KEY, or check the port."
    return f"{where} is lost again ({error}): try once more, or check firewall and network policy."


def _explain_refusal(reason: str, access: Access) -> str:
    if access.tls_cert is None:
        return f"the daemon wants a certificate of ours ({reason}): set TOPOWATCH_TLS_CERT and TOPOWATCH_TLS_KEY."
    return f"the daemon refuses {access.tls_cert} ({reason}): use one that is valid and signed by its CA."


def _daemon(access: Access) -> list[Check]:
    """Whether it is healthy, and whether it lets us in."""
    if access.secure:
        channel = grpc.secure_channel(access.endpoint, access.credentials(), options=OPTIONS)
    else:
        channel = grpc.insecure_channel(access.endpoint, options=OPTIONS)
    with channel:
        checks = [_health(channel, access)]
        return [*checks, _ingest(channel, access)] if checks[0].ok else checks


def _health(channel: grpc.Channel, access: Access) -> Check:
    try:
        answer = _call(channel, access, _HEALTH_METHOD, b"")
    except grpc.RpcError as error:
        return Check("daemon", False, _explain(error, access))
    if answer != _SERVING:
        return Check("daemon", False, "the daemon is up but not serving: see its log and /-/ready.")
    return Check("daemon", True, f"healthy{', with TLS' if access.secure else ''}")


def _ingest(channel: grpc.Channel, access: Access) -> Check:
    """Send a batch that holds nothing, so that nothing is stored: health is open to all, this is not."""
    try:
        answer = _call(channel, access, _INGEST_METHOD, b"")
        ingest_pb2.PushBatchResponse.FromString(answer)
    except grpc.RpcError as error:
        return Check("ingest", False, _explain(error, access))
    return Check("ingest", True, "the daemon takes samples from us")


def _call(channel: grpc.Channel, access: Access, method: str, request: bytes) -> bytes:
    # By its wire format, so that the light install needs no further package.
    call = channel.unary_unary(method, request_serializer=None, response_deserializer=None)
    answer: bytes = call(request, timeout=_SECONDS, metadata=access.metadata())
    return answer


def _explain(error: grpc.RpcError, access: Access) -> str:
    code, detail = error.code(), error.details()
    if code == grpc.StatusCode.UNAUTHENTICATED:
        advice = "replace the token, it is wrong or has expired" if access.metadata() else "set TOPOWATCH_TOKEN"
        return f"the daemon does not know us ({detail}): {advice}."
    if code == grpc.StatusCode.PERMISSION_DENIED:
        return f"the daemon knows us and does not let us write ({detail}): get a token that may."
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return f"something other than topowatch answers on {access.endpoint}: check the port."
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"the daemon does not answer within {_SECONDS:.0f} s: it is overloaded or hangs, see its log."
    return f"the gRPC call failed ({code.name}: {detail}): check that the port is the daemon's, and its log."
