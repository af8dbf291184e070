"""The daemon's settings, parsed once: flags, then environment, then a TOML file, then defaults."""

from __future__ import annotations

import difflib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from topowatch_monitor import detect_section
from topowatch_monitor.detect import Thresholds

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Mapping

ENV_PREFIX = "TOPOWATCH_MONITOR_"
ENV_DELIMITER = "__"  # between the parts of a threshold's name

# Kubernetes announces a Service called topowatch-monitor through variables of these names; they are not settings.
_KUBERNETES = re.compile(r"(.*_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_.*)?)")


class ConfigError(ValueError):
    """The settings are wrong; the message says which, where they came from and what to do."""


@dataclass(frozen=True)
class Address:
    """A host and a TCP port to listen on; port 0 lets the system choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(value: object) -> Address:
    """Parse HOST:PORT, with an IPv6 host in brackets; ValueError says what is wrong with it."""
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise ValueError(f"expected HOST:PORT, such as 127.0.0.1:7070, not {value!r}")  # noqa: TRY004 pydantic turns a ValueError alone into its own error
    host, separator, port = value.strip().rpartition(":")
    if not separator or not host:
        raise ValueError(f"{value!r} is not HOST:PORT: write both, such as 127.0.0.1:7070, or 0.0.0.0:7070 for all")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{value!r} is ambiguous: write an IPv6 host in brackets, such as [::1]:7070")
    if not host or any(character.isspace() or character in "[]/" for character in host):
        raise ValueError(f"{value!r} has no valid host before the port")
    if not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"{value!r}: the port {port!r} is not a number from 0 to 65535 (0: the system chooses)")
    return Address(host, int(port))


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Return $XDG_DATA_HOME/topowatch, or ~/.local/share/topowatch where that is unset or not absolute."""
    base = Path(environ.get("XDG_DATA_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".local" / "share") / "topowatch"


def _expand(value: object) -> object:
    return Path(value).expanduser() if isinstance(value, str | Path) else value


ListenAddress = Annotated[Address, NoDecode, BeforeValidator(parse_address), PlainSerializer(str)]
UserPath = Annotated[Path, BeforeValidator(_expand)]


class Settings(BaseSettings):
    """Everything that the daemon can be told: each field is a key of the file and a variable, the usual ones flags."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_DELIMITER,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        validate_default=True,
    )

    # Where it listens and keeps its data.
    data_dir: UserPath = Field(
        default_factory=lambda: default_data_dir(os.environ),
        description="Directory of the log and the snapshots; one daemon a directory.",
    )
    grpc: ListenAddress = Field(
        default=Address("127.0.0.1", 7070), description="HOST:PORT where training jobs send samples (gRPC)."
    )
    http: ListenAddress = Field(
        default=Address("127.0.0.1", 7071), description="HOST:PORT of the page, the JSON API and /metrics."
    )

    # Who may reach it. Tokens, made with `topowatch token create`, are asked for as soon as there is one.
    tls_cert: UserPath | None = Field(
        default=None, description="Certificate for TLS on gRPC and HTTP, a PEM file; with tls_key."
    )
    tls_key: UserPath | None = Field(default=None, description="Its key, a PEM file without a passphrase.")
    tls_client_ca: UserPath | None = Field(
        default=None, description="Authorities of client certificates, a PEM file: nobody connects without such a one."
    )
    insecure: bool = Field(
        default=False, description="Whether to listen beyond this machine even without TLS or without tokens."
    )

    # What computes.
    engine: Literal["ray", "inline"] = Field(
        default="ray", description="ray: shards are Ray actors; inline: shards run in the daemon's process."
    )
    ray_address: str | None = Field(
        default=None, description="Ray cluster to join, auto or HOST:PORT; unset: an embedded one, local to this host."
    )
    shards: int = Field(
        default=2,
        ge=1,
        le=256,
        description="Ray actors that share the 256 virtual shards, where there is room for them.",
    )
    most_shards: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="Ray actors to go up to where the cluster that ray_address names has room; unset: as shards.",
    )

    # How much of a run is looked at.
    path_window: int = Field(default=512, ge=8, le=4096, description="Latest points of a path kept for H0, in samples.")
    h1_landmarks: int = Field(default=64, ge=8, le=300, description="Landmarks of the window for H1, in points.")
    h1_every: int = Field(default=16, ge=1, description="Samples between two computations of H1.")
    history_window: int = Field(
        default=2048, ge=64, description="Latest values of each scalar kept exactly for the detectors, in steps."
    )

    # When groups are compared.
    atlas_seconds: float = Field(
        default=60.0,
        gt=0,
        allow_inf_nan=False,
        description="Time between two looks at the paths of a group that changes, in seconds.",
    )
    homology_timeout_seconds: float = Field(
        default=120.0,
        gt=0,
        allow_inf_nan=False,
        description="How long a comparison of a group's paths may take, in seconds.",
    )

    # What it refuses.
    max_message_bytes: int = Field(
        default=16 << 20, ge=1 << 16, le=1 << 30, description="Largest gRPC message taken, in bytes."
    )
    max_pending_bytes: int = Field(
        default=128 << 20, ge=1 << 20, description="Bytes that may wait for the disk before senders are told to wait."
    )
    max_runs: int = Field(
        default=20_000,
        ge=1,
        description="Live runs that the daemon takes; a new one beyond is refused. Runs that have ended, or that were "
        "silent for a day, do not count.",
    )
    tenant_max_runs: int = Field(default=20_000, ge=1, description="Live runs that one tenant may have.")
    tenant_max_streams: int = Field(
        default=10_000, ge=1, description="Streams that one tenant may have open, one a rank that sends."
    )
    tenant_max_samples_per_second: int = Field(
        default=100_000, ge=1, description="Items that one tenant may send, a second; beyond it, it is told to wait."
    )
    tenant_max_bytes_per_second: int = Field(
        default=512 << 20, ge=1 << 10, description="Bytes that one tenant may send, a second."
    )
    tenant_max_series: int = Field(
        default=700_000, ge=0, description="Series in /metrics that the runs and groups of one tenant may have."
    )
    max_labels: int = Field(default=64, ge=0, description="Labels that a run may carry.")

    # When detectors fire.
    detect: detect_section.DetectSection = Field(
        default_factory=Thresholds,
        description="Thresholds of the detectors, a table each, such as [detect.loss_rise].",
    )

    # What it says of itself.
    log_format: Literal["text", "json"] = Field(
        default="text", description="text: lines for people; json: an object a line for a collector of logs."
    )

    # What is exported.
    ended_series_seconds: float = Field(
        default=300.0, ge=0, description="How long an ended run's series stay in /metrics, in seconds."
    )

    # What is on disk.
    segment_bytes: int = Field(
        default=64 << 20, ge=1 << 16, le=1 << 32, description="Size at which a log segment is closed, in bytes."
    )
    retention_days: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Days of silence, ended or not, after which a run is forgotten and its records leave the "
        "log; unset: never.",
    )
    snapshot_seconds: float = Field(
        default=60.0, gt=0, description="Time between two snapshots of the run states, in seconds."
    )


THRESHOLDS = detect_section.keys()
KEYS = (*(name for name in Settings.model_fields if name != detect_section.SECTION), *THRESHOLDS)


@dataclass(frozen=True)
class Loaded:
    """Settings, and for each key where its value came from; the key of a threshold has dots."""

    settings: Settings
    origin: Mapping[str, str]

    def values(self) -> dict[str, Any]:
        """The value in force of every key, as JSON knows it."""
        return _flat(self.settings.model_dump(mode="json"))


def meaning(key: str) -> str:
    """Return what a key is for, in its unit."""
    return THRESHOLDS[key].meaning if key in THRESHOLDS else Settings.model_fields[key].description or ""


def load(flags: Mapping[str, Any] | None = None, file: Path | None = None) -> Loaded:
    """Merge flags (None: not given), environment, file and defaults.

    Raises:
        ConfigError: An unknown key, a value out of range, values that exclude each other or an unreadable file; the
            message names it.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    from_file = _read(file) if file is not None else {}
    _refuse_unknown_variables()
    from_environment = EnvSettingsSource(Settings)()
    origin = dict.fromkeys(KEYS, "default")
    origin |= dict.fromkeys(_flat(from_file), f"file {file}")
    origin |= {name: f"environment {_variable(name)}" for name in _flat(from_environment)}
    origin |= {name: f"flag --{name.replace('_', '-')}" for name in given}
    try:
        settings = Settings(**{**_merged(from_file, from_environment), **given})
    except ValidationError as error:
        raise ConfigError("\n".join(_sentence(detail, origin) for detail in error.errors())) from None
    if settings.engine == "inline" and settings.ray_address is not None:
        raise ConfigError(
            f"ray_address ({origin['ray_address']}): engine is inline ({origin['engine']}), which joins no Ray "
            "cluster: leave the address out, or set engine to ray"
        )
    if settings.most_shards is not None and settings.ray_address is None:
        raise ConfigError(
            f"most_shards ({origin['most_shards']}): only a cluster grows: name one with ray_address, or set shards"
        )
    if settings.most_shards is not None and settings.most_shards < settings.shards:
        raise ConfigError(
            f"most_shards ({origin['most_shards']}) is {settings.most_shards}, fewer than shards "
            f"({origin['shards']}), which is {settings.shards}: raise it, or leave it out"
        )
    if (settings.tls_cert is None) != (settings.tls_key is None) or (settings.tls_client_ca and not settings.tls_cert):
        raise ConfigError("tls_cert and tls_key come together, and tls_client_ca needs both")
    return Loaded(settings, origin)


def _flat(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested tables, by their names with dots."""
    found: dict[str, Any] = {}
    for name, value in tables.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def _merged(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Both, table by table; where they differ, `upper` counts."""
    merged = {**lower, **upper}
    for name, value in upper.items():
        before = lower.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            merged[name] = _merged(before, value)
    return merged


def _read(file: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the config file {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the config file {file} is not valid TOML: {error}") from None
    values.pop("client", None)  # the client's own table: one file may serve both on a host
    for key in values:
        if key not in Settings.model_fields:
            raise ConfigError(f"unknown key {key!r} in {file}: {_nearest(key)}")
    return values


def _variable(key: str) -> str:
    return ENV_PREFIX + key.upper().replace(".", ENV_DELIMITER)


def _refuse_unknown_variables() -> None:
    known = {_variable(key) for key in KEYS}
    for variable in sorted(os.environ):
        name = variable.upper().removeprefix(ENV_PREFIX)
        if name == variable.upper() or _KUBERNETES.fullmatch(name) or variable.upper() in known:
            continue
        hint = _nearest(name.lower().replace(ENV_DELIMITER, "."), show=_variable)
        raise ConfigError(f"unknown environment variable {variable}: {hint}")


def _nearest(key: str, show: Any = str) -> str:
    """Say which keys may have been meant: those whose last part is the same, else those that look alike."""
    wanted = key.lower().replace("-", "_")
    near = [name for name in KEYS if name.rpartition(".")[2] == wanted][:3]
    near = near or difflib.get_close_matches(wanted, KEYS, n=3, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(show(name) for name in near) + "?"
    settings = ", ".join(show(name) for name in KEYS if name not in THRESHOLDS)
    return f"valid are {settings} and the thresholds of detectors, which `topowatch config check --toml` lists"


def _sentence(detail: Any, origin: Mapping[str, str]) -> str:
    name = ".".join(map(str, detail["loc"])) or "settings"
    below = [told for key, told in origin.items() if key.startswith(f"{name}.")]
    where = origin.get(name) or next((told for told in below if told != "default"), (below or ["flag"])[0])
    if detail["type"] == "extra_forbidden":
        return f"unknown key {name!r} ({where}): {_nearest(name)}"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{name} ({where}): {message}" + ("" if detail["type"] == "value_error" else f", not {detail['input']!r}")
