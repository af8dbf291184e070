"""The daemon's own figures in /metrics."""

from __future__ import annotations

import math

from prometheus_client.parser import text_string_to_metric_families

from topowatch_monitor.engine.view import at
from topowatch_monitor.export.collector import FleetCollector
from topowatch_monitor.export.exposition import render
from topowatch_monitor.export.fleet import DaemonStats, Fleet
from topowatch_monitor.ingest.counters import Counters
from topowatch_protos.v1 import ingest_pb2 as pb


def figures(stats: DaemonStats) -> dict[str, list[tuple[dict[str, str], float]]]:
    """What Prometheus would read of a daemon without runs, by series name."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    collector = FleetCollector(Fleet(at), lambda: stats, lambda: 1_000_000.0, "1.2.3")
    for family in text_string_to_metric_families(render(collector.collect()).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_the_daemons_own_figures():
    stats = DaemonStats(
        ingest_ready=False,
        samples_total=7,
        rejected_total={"not_finite": 2, "malformed": 1},
        bytes_total=9000,
        acks_total={"stored": 5, "resource_exhausted": 2},
        ack_seconds_buckets=((0.1, 3), (1.0, 5), (math.inf, 6)),
        ack_seconds_sum=4.5,
        shard_lag_samples=11,
        shards=3,
        shards_wanted=4,
        shard_restarts_total=1,
        log_bytes=12345,
        disk_free_bytes=50,
        disk_size_bytes=80,
        certificate_ends_at=1.5e9,
        records_lost_total=3,
        homology_timeouts_total=2,
        homology_refused_total=5,
    )
    found = figures(stats)
    assert found["topowatch_ingest_ready"] == [({}, 0.0)]
    assert found["topowatch_ingest_samples_total"] == [({}, 7.0)]
    assert found["topowatch_ingest_rejected_total"] == [({"reason": "malformed"}, 1.0), ({"reason": "not_finite"}, 2.0)]
    assert found["topowatch_ingest_bytes_total"] == [({}, 9000.0)]
    assert found["topowatch_acks_total"] == [({"status": "resource_exhausted"}, 2.0), ({"status": "stored"}, 5.0)]
    assert found["topowatch_shard_lag_samples"] == [({}, 11.0)]
    assert found["topowatch_shards"] == [({}, 3.0)]
    assert found["topowatch_shards_wanted"] == [({}, 4.0)]
    assert found["topowatch_shard_restarts_total"] == [({}, 1.0)]
    assert found["topowatch_log_bytes"] == [({}, 12345.0)]
    assert found["topowatch_disk_free_bytes"] == [({}, 50.0)]
    assert found["topowatch_disk_size_bytes"] == [({}, 80.0)]
    assert found["topowatch_certificate_expiry_timestamp_seconds"] == [({}, 1.5e9)]
    assert found["topowatch_log_records_lost_total"] == [({}, 3.0)]
    assert found["topowatch_homology_timeouts_total"] == [({}, 2.0)]
    assert found["topowatch_homology_refused_total"] == [({}, 5.0)]
    assert found["topowatch_series_dropped_total"] == [({}, 0.0)]
    assert found["topowatch_build_info"] == [({"version": "1.2.3"}, 1.0)]
    assert found["topowatch_ack_seconds_bucket"] == [({"le": "0.1"}, 3), ({"le": "1.0"}, 5), ({"le": "+Inf"}, 6)]
    assert found["topowatch_ack_seconds_count"] == [({}, 6.0)]
    assert found["topowatch_ack_seconds_sum"] == [({}, 4.5)]


def test_of_a_disk_that_does_not_answer_and_without_tls_there_are_no_series():
    found = figures(DaemonStats())
    assert not {"topowatch_disk_free_bytes", "topowatch_disk_size_bytes"} & found.keys()
    assert "topowatch_certificate_expiry_timestamp_seconds" not in found


def test_answers_and_refusals_have_a_series_for_each_status_and_reason_before_the_first():
    """An alert on their increase would miss the first burst otherwise."""
    counters = Counters()
    stats = DaemonStats(rejected_total=dict(counters.rejected_total), acks_total=dict(counters.acks_total))
    found = figures(stats)
    answered = {labels["status"]: value for labels, value in found["topowatch_acks_total"]}
    assert len(answered) == len(pb.AckStatus.keys()) - 1
    assert set(answered.values()) == {0.0}
    refused = {labels["reason"]: value for labels, value in found["topowatch_ingest_rejected_total"]}
    assert len(refused) == len(pb.RejectionReason.keys()) - 1  # none is unspecified
    assert set(refused.values()) == {0.0}
