"""The dashboard 'Daemon': whether it takes samples, keeps up, and loses nothing."""
# ruff: noqa: INP001 - imported by a script beside it, and the folder is no package

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from panels import curves, empty, figure, rows

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

ONE = "{{instance}}"
RATE = "[$__rate_interval]"
# Recorded by the rules.
SAMPLES = "instance:topowatch_ingest_samples_total:rate5m"
SLOWEST_ACKS = "instance:topowatch_ack_seconds:p99_5m"


def dashboard() -> Dashboard:
    """Build the dashboard."""
    made = empty(
        "topowatch: daemon",
        "topowatch-daemon",
        "How the daemon itself does: ingest, analysis, disk.",
    )
    return rows(made, {"Now": _now(), "Ingest": _ingest(), "Analysis": _analysis(), "Disk and memory": _disk()})


def _now() -> list[Any]:
    return [
        figure("Takes samples", "1 while it does, 0 while the log cannot be written.", {ONE: "topowatch_ingest_ready"}),
        figure("Lag", "Records that the slowest shard has not yet analysed.", {ONE: "topowatch_shard_lag_samples"}),
        figure("Runs", "With series in the latest scrape.", {ONE: "sum by (instance) (topowatch_cluster_runs)"}),
        figure("Version", "Of the daemon.", {"{{version}}": "topowatch_build_info"}),
    ]


def _ingest() -> list[Any]:
    return [
        curves("Samples a second", "Stored.", {ONE: SAMPLES}, span=6),
        curves("Bytes a second", "Of items stored.", {ONE: f"rate(topowatch_ingest_bytes_total{RATE})"}, span=6),
        curves(
            "Time to the ack",
            "Seconds from a batch's arrival until it is on disk: median and 99th percentile.",
            {
                f"{ONE} p50": "histogram_quantile(0.5, sum by (instance, le) "
                f"(rate(topowatch_ack_seconds_bucket{RATE})))",
                f"{ONE} p99": SLOWEST_ACKS,
            },
            span=6,
        ),
        curves(
            "Batches answered",
            "By what they were told; resource_exhausted is to wait, because of a limit of the tenant or of the daemon.",
            {"{{status}}": f"sum by (status) (rate(topowatch_acks_total{RATE}))"},
            span=6,
        ),
        curves(
            "Not let in",
            "Streams and requests without a token that is good for them.",
            {"{{over}}": f"increase(topowatch_requests_denied_total{RATE})"},
            span=6,
        ),
        curves(
            "Items refused",
            "By reason; the sender keeps what may be sent again.",
            {"{{reason}}": f"sum by (reason) (increase(topowatch_ingest_rejected_total{RATE}))"},
            span=6,
        ),
    ]


def _analysis() -> list[Any]:
    return [
        curves(
            "Lag", "Records that the slowest shard has not yet analysed.", {ONE: "topowatch_shard_lag_samples"}, span=6
        ),
        curves(
            "Shards restored",
            "After their process or node was lost.",
            {ONE: f"increase(topowatch_shard_restarts_total{RATE})"},
            span=6,
        ),
        curves(
            "Shards at work",
            "None while the engine is started anew, fewer than asked for where a Ray cluster has no room.",
            {ONE: "topowatch_shards", f"{ONE} asked for": "topowatch_shards_wanted"},
            span=6,
        ),
        curves(
            "Comparisons of groups dropped",
            "Because they took too long, or were too large to be begun.",
            {
                f"{ONE} too long": f"increase(topowatch_homology_timeouts_total{RATE})",
                f"{ONE} too large": f"increase(topowatch_homology_refused_total{RATE})",
            },
            span=6,
        ),
        curves(
            "Series left out",
            "Of scrapes, by the limits on series.",
            {ONE: f"increase(topowatch_series_dropped_total{RATE})"},
            span=6,
        ),
    ]


def _disk() -> list[Any]:
    return [
        curves("Size of the log", "In bytes.", {ONE: "topowatch_log_bytes"}, span=6),
        curves(
            "Room on the disk",
            "Bytes that may still be written to the file system of the data directory, and its size.",
            {f"{ONE} free": "topowatch_disk_free_bytes", f"{ONE} size": "topowatch_disk_size_bytes"},
            span=6,
        ),
        curves(
            "Memory of the daemon",
            "In bytes, without its engine's.",
            {ONE: "topowatch_process_resident_memory_bytes"},
            span=6,
        ),
        curves(
            "Processor time of the daemon",
            "In cores, without its engine's.",
            {ONE: f"rate(topowatch_process_cpu_seconds_total{RATE})"},
            span=6,
        ),
        curves(
            "Records lost",
            "Of the log: could not be read, decoded or analysed. None is as it should be.",
            {ONE: f"increase(topowatch_log_records_lost_total{RATE})"},
            span=6,
        ),
    ]
