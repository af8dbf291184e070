"""Reading from a daemon over HTTP; whatever goes wrong ends in one sentence."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import httpx

from topowatch_client.config import ConfigError, load
from topowatch_client.transport import Access
from topowatch_monitor.commands.output import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_URL = "http://127.0.0.1:7071"
TIMEOUT_SECONDS = 10.0


class BusyError(CommandError):
    """The daemon cannot answer now, but may in a while."""


def fetch_runs(url: str, group: str | None = None, tenant: str | None = None) -> dict[str, Any]:
    """Return {now, runs, groups} of the daemon; raises CommandError."""
    return _fetch(url, "/api/v1/runs", {"group": group, "tenant": tenant})


def fetch_run(url: str, run: str, group: str | None = None, tenant: str | None = None) -> dict[str, Any]:
    """Return one run's JSON; raises CommandError, which says how to list the runs if there is no such one."""
    where = "" if group is None else f" in group {group!r}"
    missing = f"no run {run!r}{where} is known to the daemon at {url}: `topowatch runs` lists those that are"
    if run in {"", ".", ".."}:  # no names of runs, and a path would lead elsewhere
        raise CommandError(missing)
    return _fetch(url, f"/api/v1/runs/{quote(run, safe='')}", {"group": group, "tenant": tenant}, missing)


def fetch_shape(url: str, run: str, group: str, tenant: str) -> dict[str, Any]:
    """Return the barcodes, curves and forecasts of one run; raises CommandError, BusyError."""
    return _fetch(url, f"/api/v1/runs/{quote(run, safe='')}/shape", {"group": group, "tenant": tenant})


def fetch_map(url: str, group: str, tenant: str) -> dict[str, Any]:
    """Return the map of a group's paths; raises CommandError, BusyError."""
    return _of_group(url, group, "map", tenant)


def fetch_group(url: str, group: str, tenant: str | None = None) -> dict[str, Any]:
    """Return the JSON of a group's path classes; raises CommandError."""
    return _of_group(url, group, "classes", tenant)


def fetch_forecasts(url: str, group: str, tenant: str | None = None) -> dict[str, Any]:
    """Return the JSON of a group's forecasts; raises CommandError."""
    return _of_group(url, group, "forecast", tenant)


def fetch_fleet_forecasts(url: str) -> dict[str, Any]:
    """Return the JSON of the forecasts of all groups; raises CommandError."""
    return _fetch(url, "/api/v1/forecasts", {})


def _of_group(url: str, group: str, what: str, tenant: str | None) -> dict[str, Any]:
    missing = f"no run of a group {group!r} is known to the daemon at {url}: `topowatch runs` lists groups and runs"
    if group in {"", ".", ".."}:  # no names of groups, and a path would lead elsewhere
        raise CommandError(missing)
    return _fetch(url, f"/api/v1/groups/{quote(group, safe='')}/{what}", {"tenant": tenant}, missing)


def ask_for_slice(url: str, run: str, side: int, group: str | None = None, tenant: str | None = None) -> str:
    """Ask for a slice of a run's loss; return the id that it will come with. Raises CommandError."""
    path = f"/api/v1/runs/{quote(run, safe='')}/slice"
    request: str = _fetch(url, path, {"group": group, "tenant": tenant}, body={"side": side})["request"]
    return request


def _fetch(
    url: str,
    path: str,
    asked: Mapping[str, str | None],
    missing: str | None = None,
    *,
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    base = url.rstrip("/")
    no_address = f"--url {url!r} is not an address such as {DEFAULT_URL}"
    try:
        parts = urlsplit(base)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise CommandError(no_address, status=2) from None
    if not valid:
        raise CommandError(no_address, status=2)
    local = parts.hostname in {"localhost", "127.0.0.1", "::1"}
    access = own_access()
    try:
        answer = httpx.request(
            "GET" if body is None else "POST",
            base + path,
            params={name: value for name, value in asked.items() if value is not None},
            json=body,
            headers=dict(access.metadata()),
            verify=_trusted(access) if parts.scheme == "https" else True,
            timeout=TIMEOUT_SECONDS,
            trust_env=not local,  # a proxy cannot reach this host's own loopback
        )
        content = answer.json()
    except OSError as error:  # a token, a certificate or its key
        raise CommandError(str(error), status=2) from None
    except httpx.InvalidURL:
        raise CommandError(no_address, status=2) from None
    except httpx.TransportError as error:
        raise CommandError(_unreachable(base, error), status=2) from None
    except ValueError:
        raise CommandError(f"what answers at {base} is no topowatch daemon: name one with --url", status=2) from None
    if not answer.is_success or not isinstance(content, dict):
        detail = content.get("error") if isinstance(content, dict) else None
        if missing is not None and detail is not None and answer.status_code == httpx.codes.NOT_FOUND:
            raise CommandError(missing)
        told = content if isinstance(content, dict) and answer.status_code == httpx.codes.CONFLICT else {}
        several = next((name for name in asked if f"{name}s" in told), None)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise CommandError(f"{detail}; set TOPOWATCH_TOKEN or TOPOWATCH_TOKEN_FILE", status=2)
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and detail is not None:
            raise BusyError(detail)
        hint = f"; name its {several} with --{several}" if several else ""
        raise CommandError((detail or f"{base} answered HTTP {answer.status_code}") + hint)
    return content


def own_access(endpoint: str | None = None) -> Access:
    """Return how this user reaches a daemon: as a job does, by TOPOWATCH_* or topowatch.toml; raises CommandError."""
    try:
        return Access.of_writer({}, load(), endpoint)
    except ConfigError as error:
        raise CommandError(str(error), status=2) from None


def _trusted(access: Access) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=access.tls_ca)
    if access.tls_cert is not None:
        context.load_cert_chain(access.tls_cert, access.tls_key)
    return context


def _unreachable(base: str, error: httpx.TransportError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return (
            f"the daemon at {base} did not answer within {TIMEOUT_SECONDS:g} s: see its log, or name another with --url"
        )
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return f"the certificate of {base} cannot be trusted ({error}): name its authority with TOPOWATCH_TLS_CA"
    return f"no daemon answers at {base}: start one with `topowatch serve`, or name another with --url"
