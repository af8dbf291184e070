"""How much of what ingest takes, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds that keep one client from harming the others.

    Attributes:
        max_message_bytes: one gRPC message; larger ones end the call with RESOURCE_EXHAUSTED.
        max_pending_bytes: batches that are being handled, all together; beyond it ingest throttles.
        max_items: items of one batch.
        max_item_bytes: one encoded item.
        max_runs: live runs: those that have not ended; new ones beyond it are refused.
        max_writers: writers (a life of a rank of a run), over all live runs.
        silent_seconds: silence after which a run that has not ended no longer counts as live.
        max_labels: labels of one run.
        max_text: characters of a name, label or label value.
        max_series: scalar series, layers or results of one item.
        max_missing_ranges: gaps in the sequence of one writer.
        tenant_streams: calls that one tenant may have open, streams and single batches.
        tenant_samples_per_second: items that one tenant may send; beyond it, it is told to wait.
        tenant_bytes_per_second: bytes of batches likewise.
        tenant_runs: live runs of one tenant.
        tenant_writers: writers over all live runs of one tenant.
        first_batch_seconds: how long a stream may be open before its first batch has come.
        idle_seconds: how long a stream may be silent between two batches; its forwarder opens another when it has more.
        max_dimension: numbers of a sketch; a path keeps its window times as many float32, 8 MiB for 512 points.
        retry_after: seconds that a throttled client waits.
        retry_unavailable: seconds that a client waits, and after which the daemon tries its disk again.
        retry_rotation: seconds after which a segment is begun again that could not be for another reason than the disk.
        close_seconds: how long a shutdown waits for what is under way, in seconds.
    """

    max_message_bytes: int = 16 << 20
    max_pending_bytes: int = 128 << 20
    max_items: int = 10_000
    max_item_bytes: int = 8 << 20
    max_runs: int = 20_000
    max_writers: int = 200_000
    silent_seconds: float = 86_400.0
    max_labels: int = 64
    max_text: int = 200
    max_series: int = 1_000
    max_missing_ranges: int = 1_024
    max_dimension: int = 4_096
    tenant_streams: int = 10_000
    tenant_samples_per_second: int = 100_000
    tenant_bytes_per_second: int = 512 << 20
    tenant_runs: int = 20_000
    tenant_writers: int = 100_000
    first_batch_seconds: float = 30.0
    idle_seconds: float = 3600.0
    retry_after: float = 0.5
    retry_unavailable: float = 1.0
    retry_rotation: float = 60.0
    close_seconds: float = 10.0


DEFAULT_LIMITS = Limits()
