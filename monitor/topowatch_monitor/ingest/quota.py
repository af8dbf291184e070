"""What one tenant may have of the daemon, so that none takes what belongs to the others. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from topowatch_monitor.ingest.limits import Limits


@dataclass
class _Purse:
    """Filled by the second up to one second's worth; may go below zero once, so that a batch of any size fits."""

    rate: float
    left: float
    at: float

    def missing(self, now: float) -> float:
        """Seconds until something may be taken."""
        self.left = min(self.rate, self.left + self.rate * (now - self.at))
        self.at = now
        return max(0.0, -self.left / self.rate)


@dataclass
class _Tenant:
    samples: _Purse
    bytes: _Purse
    streams: int = 0


@dataclass
class Quotas:
    """Counts streams, items and bytes of each tenant."""

    limits: Limits
    _tenants: dict[str, _Tenant] = field(default_factory=dict)

    def open_stream(self, tenant: str, now: float) -> str | None:
        """Count a stream or a single batch, or say why there may not be another."""
        known = self._of(tenant, now)
        if known.streams >= self.limits.tenant_streams:
            return f"tenant {tenant} has {known.streams} streams open, as many as it may: close some"
        known.streams += 1
        return None

    def close_stream(self, tenant: str) -> None:
        """Count it no more."""
        self._tenants[tenant].streams -= 1

    def take(self, tenant: str, items: int, size: int, now: float) -> tuple[str, float] | None:
        """Take a batch into account, or say why it has to wait, and for how many seconds."""
        known = self._of(tenant, now)
        for purse, what, unit in (
            (known.samples, self.limits.tenant_samples_per_second, "items"),
            (known.bytes, self.limits.tenant_bytes_per_second, "bytes"),
        ):
            if wait := purse.missing(now):
                return f"tenant {tenant} sends over {what} {unit} a second: wait", wait
        known.samples.left -= items
        known.bytes.left -= size
        return None

    def _of(self, tenant: str, now: float) -> _Tenant:
        if tenant not in self._tenants:
            samples, size = float(self.limits.tenant_samples_per_second), float(self.limits.tenant_bytes_per_second)
            self._tenants[tenant] = _Tenant(_Purse(samples, samples, now), _Purse(size, size, now))
        return self._tenants[tenant]
