"""Turns a snapshot of the fleet into metrics, at scrape time and nowhere else."""

from __future__ import annotations

import math
import re
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from topowatch_monitor.access.tokens import DEFAULT_TENANT
from topowatch_monitor.export import registry
from topowatch_monitor.export.forecasts import abstained_share, quantiles_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric as Family

    from topowatch_monitor.engine.forecast_view import GroupForecastView
    from topowatch_monitor.engine.group_view import GroupView
    from topowatch_monitor.export.fleet import DaemonStats, Fleet, FleetRun, GroupKey
    from topowatch_monitor.export.registry import Metric

MAX_LABEL_CHARACTERS = 200
NO_TENANT = ("", DEFAULT_TENANT)
# Forecast runs that have to have ended for the score of their forecasts to say anything. That fewer than 24 of 30
# intervals of 90 % hold happens in 3 % of cases by chance, and raises an alert.
SCORED_RUNS, COVERED_RUNS = 8, 30
VERDICTS = ("healthy", "starting", "warning", "unstable", "lost")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def clean(value: str) -> str:
    """Make text fit for a label value: control characters become U+FFFD, what is too long is cut."""
    text = _CONTROL.sub("\ufffd", value)
    return text if len(text) <= MAX_LABEL_CHARACTERS else text[: MAX_LABEL_CHARACTERS - 1] + "…"


class FleetCollector(Collector):
    """Collects the fleet and the daemon's own figures; for one tenant, what is theirs.

    Args:
        fleet: the runs.
        stats: the daemon's figures now.
        now: Unix time.
        version: of the daemon.
        tenant_series: how many series one tenant's runs and groups may have; None: any number.
    """

    def __init__(
        self,
        fleet: Fleet,
        stats: Callable[[], DaemonStats],
        now: Callable[[], float],
        version: str,
        tenant_series: int | None = None,
    ) -> None:
        self._fleet = fleet
        self._stats = stats
        self._now = now
        self._version = version
        self._process = ProcessCollector(namespace="topowatch", registry=None)
        self._tenant_series = math.inf if tenant_series is None else tenant_series
        self._lock = threading.Lock()
        # The most series that one scrape left out, by run: however often it is scraped, each is counted once.
        self._left_out: dict[tuple[str, str, str], int] = {}

    def collect(self, tenant: str | None = None) -> Iterator[Family]:
        """Yield every metric family of the registry, runs first; of one tenant those of its runs and groups alone."""
        runs = self._fleet.of(tenant).exported(self._now())
        room: Counter[str] = Counter()  # that each tenant has taken
        made = {registry.ACK_SECONDS, *registry.OF_PROCESS}
        families = {metric: _family(metric) for metric in registry.METRICS if metric not in made}
        seen: set[tuple[str, ...]] = set()
        verdicts: Counter[str] = Counter(dict.fromkeys(VERDICTS, 0))
        left_out: dict[tuple[str, str, str], int] = {}
        for run in runs:
            verdicts[run["verdict"]] += 1
            labels = _labels(run)
            series = list(_series(run))
            identity = tuple(labels.values())
            left = self._tenant_series - room[run["tenant"]]
            kept = 0 if identity in seen else int(min(registry.MAX_SERIES_PER_RUN, left))
            seen.add(identity)
            room[run["tenant"]] += min(kept, len(series))
            if len(series) > kept:
                left_out[run["tenant"], run["group"], run["run"]] = len(series) - kept
            for metric, extra, value in series[:kept]:
                families[metric].samples.append(Sample(metric.name, labels | extra if extra else labels, value))
        members: dict[GroupKey, list[FleetRun]] = {}
        for run in runs:
            members.setdefault((run["tenant"], run["group"]), []).append(run)
        self._groups(families, members, left_out, room)
        for name, quantiles in {clean(name): found for name, found in quantiles_of(runs).items()}.items():
            for quantile, value in quantiles.items():
                extra = {"metric": name, "quantile": quantile}
                families[registry.CLUSTER_FORECAST_METRIC].add_sample(
                    registry.CLUSTER_FORECAST_METRIC.name, extra, value
                )
        for name, count in verdicts.items():
            families[registry.CLUSTER_RUNS].add_sample(registry.CLUSTER_RUNS.name, {"verdict": name}, count)
        if tenant is None:
            yield from self._daemon(families, self._count(left_out))
        else:
            yield from (family for family in families.values() if family.samples)

    def _groups(
        self,
        families: Mapping[Metric, Family],
        shown: Mapping[GroupKey, list[FleetRun]],
        left_out: dict[tuple[str, str, str], int],
        room: Counter[str],
    ) -> None:
        """Add the series of the groups of which a run is shown: a group goes with the last of its runs."""
        seen: set[tuple[tuple[str, str], ...]] = set()
        groups, forecasts = self._fleet.groups(), self._fleet.forecasts()
        for key in sorted(shown, key=lambda key: (key[1], key[0])):
            labels = _group_labels({"tenant": key[0], "group": key[1]})
            series: list[tuple[Metric, float]] = []
            if (view := groups.get(key)) is not None:
                series += _group_series(view)
            if (forecast := forecasts.get(key)) is not None:
                series += _forecast_series(forecast, shown[key])
            identity = tuple(labels.items())
            if identity in seen or room[key[0]] + len(series) > self._tenant_series:
                left_out[key[0], key[1], ""] = len(series)
                continue
            seen.add(identity)
            room[key[0]] += len(series)
            for metric, value in series:
                families[metric].add_sample(metric.name, labels, value)

    def _count(self, left_out: Mapping[tuple[str, str, str], int]) -> int:
        """Return how many series have been left out so far, with those of this scrape."""
        with self._lock:
            for key, count in left_out.items():
                self._left_out[key] = max(count, self._left_out.get(key, 0))
            return sum(self._left_out.values())

    def _daemon(self, families: Mapping[Metric, Family], left_out: int) -> Iterator[Family]:
        stats = self._stats()
        for reason, count in sorted(stats.rejected_total.items()):
            name = registry.INGEST_REJECTED.name
            families[registry.INGEST_REJECTED].add_sample(name, {"reason": clean(reason)}, count)
        for over, count in sorted(stats.denied_total.items()):
            families[registry.REQUESTS_DENIED].add_sample(registry.REQUESTS_DENIED.name, {"over": over}, count)
        for status, count in sorted(stats.acks_total.items()):
            families[registry.ACKS].add_sample(registry.ACKS.name, {"status": status}, count)
        families[registry.BUILD_INFO].add_sample(registry.BUILD_INFO.name, {"version": self._version}, 1)
        for metric, value in (
            (registry.INGEST_READY, stats.ingest_ready),
            (registry.INGEST_SAMPLES, stats.samples_total),
            (registry.INGEST_BYTES, stats.bytes_total),
            (registry.SHARD_LAG, stats.shard_lag_samples),
            (registry.SHARDS, stats.shards),
            (registry.SHARDS_WANTED, stats.shards_wanted),
            (registry.SHARD_RESTARTS, stats.shard_restarts_total),
            (registry.LOG_BYTES, stats.log_bytes),
            (registry.DISK_FREE, stats.disk_free_bytes),
            (registry.DISK_SIZE, stats.disk_size_bytes),
            (registry.CERTIFICATE_EXPIRY, stats.certificate_ends_at),
            (registry.LOG_RECORDS_LOST, stats.records_lost_total),
            (registry.HOMOLOGY_TIMEOUTS, stats.homology_timeouts_total),
            (registry.HOMOLOGY_REFUSED, stats.homology_refused_total),
            (registry.SERIES_DROPPED, left_out),
        ):
            if value is not None:
                families[metric].add_sample(metric.name, {}, float(value))
        yield from families.values()
        yield from self._process.collect()
        ack = HistogramMetricFamily(registry.ACK_SECONDS.name, registry.ACK_SECONDS.help)
        if stats.ack_seconds_buckets:
            buckets = [
                ("+Inf" if math.isinf(bound) else repr(float(bound)), float(count))
                for bound, count in stats.ack_seconds_buckets
            ]
            ack.add_metric([], buckets, stats.ack_seconds_sum)
        yield ack


def _family(metric: Metric) -> Family:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return kind(metric.name, metric.help)


def _labels(run: Mapping[str, Any]) -> dict[str, str]:
    return {**_group_labels(run), "run": clean(run["run"])}


def _group_labels(view: Mapping[str, Any]) -> dict[str, str]:
    labels = {"group": clean(view["group"])}
    return labels if view["tenant"] in NO_TENANT else {"tenant": clean(view["tenant"]), **labels}


def _series(run: Mapping[str, Any]) -> Iterator[tuple[Metric, dict[str, str], float]]:
    """Yield (metric, labels beside group and run, value) of what is known of a run, the most important first."""
    yield registry.RUN_INFO, {"state": run["state"], "verdict": run["verdict"]}, 1.0
    path, path_class = run["path"], run["path_class"]
    sure = not path_class["abstained"]
    for metric, value in (
        (registry.RUN_STEP, run["step"]),
        (registry.RUN_LOSS, run["loss"]),
        (registry.RUN_LAST_SAMPLE, run["last_received_at"]),
        (registry.CLIENT_OVERHEAD, run["overhead_ratio"]),
        (registry.CLIENT_DROPPED, run["dropped"]),
        (registry.PATH_LENGTH, path["length"]),
        (registry.H0_TOTAL_PERSISTENCE, path["h0_total_persistence"]),
        (registry.H1_TOTAL_PERSISTENCE, path["h1_total_persistence"]),
        (registry.PH_DIMENSION, path["dimension"]),
        (registry.BETTI_DRIFT, path["betti_drift"]),
        (registry.PATH_CLASS, path_class["label"] if sure else None),
        (registry.PATH_CLASS_P_VALUE, path_class["p_value"] if sure else None),
        (registry.PATH_OUTLIER, path_class["outlier"] if sure else None),
        (registry.CRITICAL_LR_RATIO, run["critical_lr_ratio"]),
        (registry.GRADIENT_FLOW_CONSISTENCY, run["gradient_flow_consistency"]),
        (registry.LANDSCAPE_TOTAL_PERSISTENCE, (run["landscape"] or {}).get("total_persistence")),
        (registry.MINIMUM_UNSTABLE, run["minimum_unstable"]),
        (registry.INSTABILITY_SCORE, run["instability_score"]),
    ):
        if value is not None and not (metric is not registry.RUN_LOSS and math.isnan(value)):
            yield metric, {}, float(value)
    # Critical ones first: where there is no room for all, those that say that a minimum is being lost stay.
    for _, detector in sorted({(flag["severity"], flag["detector"]) for flag in run["flags"]}):
        yield registry.DETECTOR_ACTIVE, {"detector": clean(detector)}, 1.0
    told = run["forecast"]
    rest = told["value"], told["lower"], told["upper"], (told["gap"] or {}).get("value"), told["misses_target"]
    for metric, value in zip(registry.LAST_OF_RUN, rest, strict=True):
        if value is not None:
            yield metric, {}, float(value)


def _forecast_series(view: GroupForecastView, runs: Sequence[FleetRun]) -> Iterator[tuple[Metric, float]]:
    """Yield (metric, value) of the forecasts of a group; scores are at half of the steps."""
    if view["metric"] is None:
        return
    half = next((level for level in view["levels"] if level["share"] == 0.5), None)
    made, scored = (None, 0) if half is None else (half["made"], half["made"]["runs"])
    for metric, value in (
        (registry.GROUP_FORECAST_R2, made["r2"] if made and scored >= SCORED_RUNS else None),
        (registry.GROUP_FORECAST_COVERAGE, made["coverage"] if made and scored >= COVERED_RUNS else None),
        (registry.GROUP_FORECAST_BASELINE_R2, half["plain_of_made"] if half and scored >= SCORED_RUNS else None),
        (registry.GROUP_FORECAST_ABSTAINED, abstained_share(runs)),
    ):
        if value is not None:
            yield metric, value


def _group_series(view: GroupView) -> Iterator[tuple[Metric, float]]:
    """Yield (metric, value) of what is known of a group."""
    spread = view["spread"]
    for metric, value in (
        (registry.GROUP_CLASSES, len(view["classes"]) or None),
        (registry.GROUP_ABSTAINED, view["abstained"]),
        (registry.GROUP_OUTLIERS, None if view["abstained"] else len(view["outliers"])),
        (registry.GROUP_WITHIN_CLASS_SPREAD, spread["within"]),
        (registry.GROUP_BETWEEN_CLASS_SPREAD, spread["between"]),
        (registry.GROUP_SPREAD_P_VALUE, spread["p_value"]),
    ):
        if value is not None and not math.isnan(value):
            yield metric, float(value)
