"""One frozen configuration: argument > environment > file > default.

The file is `topowatch.toml` in the working directory, table `[client]`, with the field names below as keys.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topowatch_client import identity

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE_NAME = "topowatch.toml"
MODES = ("online", "offline", "disabled")


class ConfigError(ValueError):
    """A setting that cannot be used; the message names it and says what it may be."""


def default_spool_dir(environment: Mapping[str, str]) -> Path:
    """Return the spool directory of this user, as the XDG base directory specification places caches."""
    cache = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "topowatch" / "spool"


@dataclass(frozen=True)
class Config:
    """Settings of the client."""

    endpoint: str = "127.0.0.1:7070"  # the daemon's gRPC address, host:port
    # Kept in memory and handed to the forwarder that this job starts, which uses it for all jobs of the spool directory
    # that name no token_file: jobs of different tenants that share one name a token_file each.
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None  # read again at every connection, so that a token can be replaced
    mode: str = "online"  # online | offline (spool only, for `topowatch sync`) | disabled
    run: str | None = None  # None: the launcher's job id, else <script>-<host>-<time>
    group: str = "default"
    spool_dir: Path = field(default_factory=lambda: default_spool_dir(os.environ))
    spool_max_bytes: int = 256 << 20  # beyond it the oldest samples are dropped, and counted
    interval: int | None = None  # optimiser steps between samples; None: chosen by the governor
    # The same for probe passes; None: chosen, or four samples where those are fixed, and none on a sharded model.
    probe_interval: int | None = None
    pulse_interval: int | None = None  # the same between beats of the pulse; None: chosen
    critical_interval: int | None = None  # the same between searches for the critical step; None: chosen
    max_overhead: float = 0.005  # share of the job's time that watching may cost, by wall and processor clock
    tls_ca: Path | None = None  # any of the three turns TLS on
    tls_cert: Path | None = None
    tls_key: Path | None = None
    start_step: int | None = None  # None: read from the optimiser's state, else 0
    incarnation: int | None = None  # None: milliseconds since the epoch at attach
    sketch_seed: int = 0
    sketch_dim: int = 1021
    probe_positions: int = 256  # probe outputs that are looked at
    include: tuple[str, ...] = ()  # shell patterns of the names of parameters to watch; none: all
    exclude: tuple[str, ...] = ()  # the same of those to leave out; wins over `include`
    given: frozenset[str] = field(default=frozenset(), repr=False, compare=False)  # settings that are no defaults

    def __post_init__(self) -> None:
        for name, problem in (
            ("endpoint", None if _is_address(self.endpoint) else "must be HOST:PORT"),
            ("mode", None if self.mode in MODES else f"must be one of {', '.join(MODES)}"),
            ("group", None if self.group else "must not be empty"),
            ("interval", None if self.interval is None or self.interval >= 1 else "must be at least 1 step"),
            (
                "probe_interval",
                None if self.probe_interval is None or self.probe_interval >= 1 else "must be at least 1 step",
            ),
            (
                "pulse_interval",
                None if self.pulse_interval is None or self.pulse_interval >= 1 else "must be at least 1 step",
            ),
            (
                "critical_interval",
                None if self.critical_interval is None or self.critical_interval >= 1 else "must be at least 1 step",
            ),
            ("max_overhead", None if 0 < self.max_overhead <= 1 else "must lie between 0 and 1"),
            ("spool_max_bytes", None if self.spool_max_bytes >= 1 << 16 else "must be at least 65536 bytes"),
            (
                "start_step",
                None
                if self.start_step is None or 0 <= self.start_step <= identity.LARGEST
                else "must not be negative or above 2**63 - 1",
            ),
            (
                "incarnation",
                None
                if self.incarnation is None or 0 < self.incarnation <= identity.LARGEST
                else "must be positive and at most 2**63 - 1",
            ),
            (
                "sketch_seed",
                None if 0 <= self.sketch_seed <= identity.LARGEST else "must lie between 0 and 2**63 - 1",
            ),
            ("sketch_dim", None if 1 <= self.sketch_dim <= 4096 else "must be positive and at most 4096"),
            ("probe_positions", None if 1 <= self.probe_positions <= 1 << 20 else "must lie between 1 and 2**20"),
            ("tls_cert", "needs tls_key, and tls_key needs it" if bool(self.tls_cert) != bool(self.tls_key) else None),
        ):
            if problem:
                raise ConfigError(f"topowatch: {name} = {getattr(self, name)!r}: {problem}")


@dataclass(frozen=True)
class Launch:
    """What the job's launcher says about this process."""

    run: str  # the launcher's job id, else <script>-<host>-<time>
    shared: bool  # whether all ranks call it the same
    rank: int
    world_size: int


def launch(environment: Mapping[str, str] | None = None) -> Launch:
    """Read what the launcher says from `environment` (default: the process's)."""
    environment = os.environ if environment is None else environment
    rank, world_size = identity.ranks(environment)
    job = identity.job_id(environment)
    return Launch(job or identity.default_run(), job is not None, rank, world_size)


def load(
    arguments: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Config:
    """Build the configuration.

    Args:
        arguments: Field values that win over everything; None stands for "not given".
        environment: `TOPOWATCH_*` variables are read from it (default: the process's).
        directory: Where `topowatch.toml` is looked for (default: the working directory).

    Raises:
        ConfigError: An unknown key, a value of the wrong type or out of range, or an unreadable file.
    """
    environment = os.environ if environment is None else environment
    given = {key: value for key, value in (arguments or {}).items() if value is not None}
    _refuse_unknown(given, "attach(config=…)")
    variables = {name: f"TOPOWATCH_{name.upper()}" for name in _TYPES}
    layers = (
        _from_file((directory or Path.cwd()) / FILE_NAME),
        {name: _parse(name, environment[key], key) for name, key in variables.items() if environment.get(key)},
        {name: _check(name, value, "attach") for name, value in given.items()},
    )
    settings: dict[str, Any] = {}
    for layer in layers:
        if not {"token", "token_file"}.isdisjoint(layer):  # two ways to say the same: neither outlives a stronger one
            settings = {name: value for name, value in settings.items() if name not in ("token", "token_file")}
        settings |= layer
    return Config(**{"spool_dir": default_spool_dir(environment), **settings}, given=frozenset(settings))


def override(config: Config, arguments: Mapping[str, Any]) -> Config:
    """Return `config` with the arguments that are not None put in; raises ConfigError as `load` does."""
    given = {key: _check(key, value, "attach") for key, value in arguments.items() if value is not None}
    return replace(config, **given, given=config.given | given.keys())


_TYPES: dict[str, type] = {
    "endpoint": str,
    "token": str,
    "token_file": Path,
    "mode": str,
    "run": str,
    "group": str,
    "spool_dir": Path,
    "spool_max_bytes": int,
    "interval": int,
    "probe_interval": int,
    "pulse_interval": int,
    "critical_interval": int,
    "max_overhead": float,
    "tls_ca": Path,
    "tls_cert": Path,
    "tls_key": Path,
    "start_step": int,
    "incarnation": int,
    "sketch_seed": int,
    "sketch_dim": int,
    "probe_positions": int,
    "include": tuple,
    "exclude": tuple,
}


def _from_file(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    if sys.version_info >= (3, 11):  # here, because most jobs have no file
        import tomllib
    else:
        import tomli as tomllib
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"topowatch: {path} cannot be read: {error}") from error
    table = document.get("client", {})
    if not isinstance(table, dict):
        raise ConfigError(f"topowatch: {path}: `client` must be a table, written [client]")
    where = f"{path} [client]"
    _refuse_unknown(table, where)
    return {name: _check(name, value, where) for name, value in table.items()}


def _refuse_unknown(settings: Mapping[str, Any], where: str) -> None:
    for name in settings:
        if name not in _TYPES:
            raise ConfigError(f"topowatch: {where}: unknown key {name!r}; known are {', '.join(_TYPES)}")


def _check(name: str, value: Any, where: str) -> Any:
    kind = _TYPES[name]
    if kind is Path and isinstance(value, (str, Path)):
        return Path(value).expanduser().absolute()
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if kind in (int, str) and isinstance(value, kind) and not isinstance(value, bool):
        return value
    if kind is tuple and isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value):
        return tuple(value)
    what = "list of texts" if kind is tuple else kind.__name__.lower()
    raise ConfigError(f"topowatch: {where}: {name} must be a {what}, not {value!r}")


def _parse(name: str, text: str, where: str) -> Any:
    kind = _TYPES[name]
    if kind is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        value = kind(text)
    except ValueError:
        raise ConfigError(f"topowatch: {where}: {text!r} is no {kind.__name__}") from None
    return _check(name, value, where)


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 65536
