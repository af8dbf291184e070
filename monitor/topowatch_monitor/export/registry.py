"""Every metric that the daemon exports, by name. Rules, dashboards and documentation are tested against this file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

RUN: Final = ("group", "run")
GROUP: Final = ("group",)
MAX_SERIES_PER_RUN: Final = 35


@dataclass(frozen=True, eq=False)  # each is itself alone, so that the collector looks it up at once
class Metric:
    """One metric family: its full name, kind, label names and help line."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    labels: tuple[str, ...]
    help: str


# --- by run and group; a `tenant` label joins them where a run has a tenant of its own ---
RUN_INFO = Metric(
    "topowatch_run_info",
    "gauge",
    (*RUN, "state", "verdict"),
    "1 for each run; state is live, ended or lost, verdict is what the page shows.",
)
RUN_STEP = Metric("topowatch_run_step", "gauge", RUN, "Latest optimiser step that has been analysed.")
RUN_LOSS = Metric(
    "topowatch_run_loss",
    "gauge",
    RUN,
    "Latest training loss as logged by the job; NaN and infinities are shown as such.",
)
RUN_LAST_SAMPLE = Metric(
    "topowatch_run_last_sample_timestamp_seconds", "gauge", RUN, "Unix time at which the latest sample was stored."
)
CLIENT_OVERHEAD = Metric(
    "topowatch_client_overhead_ratio",
    "gauge",
    RUN,
    "Time that the client took over wall time of training since the sample before.",
)
CLIENT_DROPPED = Metric(
    "topowatch_client_dropped_samples_total", "counter", RUN, "Samples that a full spool dropped before they were sent."
)
PATH_LENGTH = Metric(
    "topowatch_path_length", "gauge", RUN, "Length of the path of the weights since the run began, in sketch distance."
)
H0_TOTAL_PERSISTENCE = Metric(
    "topowatch_h0_total_persistence",
    "gauge",
    RUN,
    "Sum of the H0 lifetimes of the latest window of the path, in sketch distance.",
)
H1_TOTAL_PERSISTENCE = Metric(
    "topowatch_h1_total_persistence",
    "gauge",
    RUN,
    "Sum of the H1 lifetimes of landmarks of the latest window of the path, in sketch distance.",
)
PH_DIMENSION = Metric(
    "topowatch_ph_dimension", "gauge", RUN, "Persistent-homology dimension of the latest window of the path."
)
BETTI_DRIFT = Metric(
    "topowatch_betti_drift",
    "gauge",
    RUN,
    "Bottleneck distance of the H1 diagrams of the older and the newer half of the latest window of the path,"
    " in sketch distance.",
)
PATH_CLASS = Metric(
    "topowatch_path_class",
    "gauge",
    RUN,
    "Label of the class of the run's path among its siblings; no series while it is unknown.",
)
PATH_CLASS_P_VALUE = Metric(
    "topowatch_path_class_p_value",
    "gauge",
    RUN,
    "Smallest p-value of the bars that part the run's path from the majority of its siblings, 1 if none does;"
    " it ranks evidence and is no exact probability.",
)
PATH_OUTLIER = Metric(
    "topowatch_path_outlier",
    "gauge",
    RUN,
    "1 while the run's path is outside its siblings' classes, else 0; no series while nothing can be said.",
)
CRITICAL_LR_RATIO = Metric(
    "topowatch_critical_lr_ratio",
    "gauge",
    RUN,
    "Learning rate over the critical one, along the last update of the newest search; to hover at 1 is normal.",
)
GRADIENT_FLOW_CONSISTENCY = Metric(
    "topowatch_gradient_flow_consistency",
    "gauge",
    RUN,
    "Cosine between the displacement of the weights and the gradients against it, over the latest samples with both.",
)
LANDSCAPE_TOTAL_PERSISTENCE = Metric(
    "topowatch_landscape_total_persistence",
    "gauge",
    RUN,
    "Sum of the finite bars of the sublevel sets of the newest slice of the loss, in the loss's own unit.",
)
MINIMUM_UNSTABLE = Metric(
    "topowatch_minimum_unstable", "gauge", RUN, "1 while a detector says that the run's minimum does not hold, else 0."
)
INSTABILITY_SCORE = Metric(
    "topowatch_instability_score",
    "gauge",
    RUN,
    "Share of moments like this one that ended in a departure from the minimum within the horizon, 0 to 1; no series"
    " while nothing can be said.",
)
DETECTOR_ACTIVE = Metric(
    "topowatch_detector_active", "gauge", (*RUN, "detector"), "1 while the detector is active; no series otherwise."
)

# --- by group, while a run of it has series ---
FORECAST_METRIC = Metric(
    "topowatch_forecast_metric",
    "gauge",
    RUN,
    "What a live run is forecast to end with, in the unit of the result that its group is forecast in.",
)
FORECAST_LOWER = Metric("topowatch_forecast_lower", "gauge", RUN, "Lower end of the 90 % interval of that forecast.")
FORECAST_UPPER = Metric("topowatch_forecast_upper", "gauge", RUN, "Upper end of the 90 % interval of that forecast.")
FORECAST_GAP = Metric(
    "topowatch_forecast_gap",
    "gauge",
    RUN,
    "By how much a live run is forecast to do better on its training data than on held-out data, in the same unit.",
)
FORECAST_MISSES_TARGET = Metric(
    "topowatch_forecast_misses_target",
    "gauge",
    RUN,
    "1 where the whole 90 % interval misses what the run is to reach by its label forecast_target, else 0.",
)

GROUP_FORECAST_R2 = Metric(
    "topowatch_group_forecast_r2",
    "gauge",
    GROUP,
    "R2 of the forecasts that were made up to half of the steps of runs that have ended since; 8 of them at least.",
)
GROUP_FORECAST_BASELINE_R2 = Metric(
    "topowatch_group_forecast_baseline_r2",
    "gauge",
    GROUP,
    "R2 of the best plain forecast of the same runs: last value, power law, loss only, or weight norm and path length.",
)
GROUP_FORECAST_COVERAGE = Metric(
    "topowatch_group_forecast_coverage",
    "gauge",
    GROUP,
    "Share of those runs that ended within the 90 % interval that was told; 30 of them at least.",
)
GROUP_FORECAST_ABSTAINED = Metric(
    "topowatch_group_forecast_abstained",
    "gauge",
    GROUP,
    "Share of the group's live runs, further than a sixteenth of their steps, of which nothing is forecast.",
)
GROUP_CLASSES = Metric(
    "topowatch_group_classes",
    "gauge",
    GROUP,
    "Classes of the paths of the group's ended runs; no series before they were computed.",
)
GROUP_ABSTAINED = Metric(
    "topowatch_group_abstained", "gauge", GROUP, "1 while the group's paths do not suffice to tell classes, else 0."
)
GROUP_OUTLIERS = Metric(
    "topowatch_group_outliers",
    "gauge",
    GROUP,
    "Runs outside their siblings' classes, with those that ended too long ago for series of their own; no series while"
    " nothing can be said.",
)
GROUP_WITHIN_CLASS_SPREAD = Metric(
    "topowatch_group_within_class_spread",
    "gauge",
    GROUP,
    "Standard deviation of the runs' final result about the mean of their class, in the result's own unit.",
)
GROUP_BETWEEN_CLASS_SPREAD = Metric(
    "topowatch_group_between_class_spread",
    "gauge",
    GROUP,
    "Standard deviation of the classes' mean final results, weighted by size, in the result's own unit.",
)
GROUP_SPREAD_P_VALUE = Metric(
    "topowatch_group_spread_p_value",
    "gauge",
    GROUP,
    "p-value of the permutation test of whether runs of different classes end with different results.",
)

# --- over the fleet ---
CLUSTER_RUNS = Metric("topowatch_cluster_runs", "gauge", ("verdict",), "Runs with series in this scrape, by verdict.")
CLUSTER_FORECAST_METRIC = Metric(
    "topowatch_cluster_forecast_metric",
    "gauge",
    ("metric", "quantile"),
    "Quantiles of what live runs are forecast to end with, over all groups that are forecast in the same metric.",
)

# --- the daemon itself ---
BUILD_INFO = Metric("topowatch_build_info", "gauge", ("version",), "1, with the daemon's version.")
INGEST_READY = Metric(
    "topowatch_ingest_ready", "gauge", (), "1 while samples are taken and stored, 0 while the log cannot be written."
)
INGEST_SAMPLES = Metric("topowatch_ingest_samples_total", "counter", (), "Samples stored since the daemon started.")
INGEST_REJECTED = Metric(
    "topowatch_ingest_rejected_total", "counter", ("reason",), "Items refused since the daemon started, by reason."
)
INGEST_BYTES = Metric("topowatch_ingest_bytes_total", "counter", (), "Bytes of items stored since the daemon started.")
REQUESTS_DENIED = Metric(
    "topowatch_requests_denied_total",
    "counter",
    ("over",),
    "Streams and requests without a token that is good for them, since the daemon started; over is grpc or http.",
)
ACKS = Metric(
    "topowatch_acks_total",
    "counter",
    ("status",),
    "Batches answered since the daemon started, by status: stored, or why not and what the sender is to do.",
)
ACK_SECONDS = Metric(
    "topowatch_ack_seconds", "histogram", (), "Time from the arrival of a batch to its ack, in seconds."
)
SHARD_LAG = Metric(
    "topowatch_shard_lag_samples", "gauge", (), "Records in the log that the slowest shard has not yet analysed."
)
SHARDS = Metric("topowatch_shards", "gauge", (), "Shards that carry runs now; none while the engine is started anew.")
SHARDS_WANTED = Metric("topowatch_shards_wanted", "gauge", (), "Shards that the settings ask for.")
SHARD_RESTARTS = Metric(
    "topowatch_shard_restarts_total", "counter", (), "Shards restored after their process or node was lost."
)
LOG_BYTES = Metric("topowatch_log_bytes", "gauge", (), "Size of the log on disk, in bytes.")
DISK_FREE = Metric(
    "topowatch_disk_free_bytes",
    "gauge",
    (),
    "Bytes that the daemon may still write to the file system of its data directory.",
)
DISK_SIZE = Metric("topowatch_disk_size_bytes", "gauge", (), "Size of the file system of the data directory, in bytes.")
CERTIFICATE_EXPIRY = Metric(
    "topowatch_certificate_expiry_timestamp_seconds",
    "gauge",
    (),
    "Unix time at which the daemon's certificate ends; no series without TLS.",
)
LOG_RECORDS_LOST = Metric(
    "topowatch_log_records_lost_total",
    "counter",
    (),
    "Records of the log that could not be read, decoded or analysed since the daemon started.",
)
HOMOLOGY_TIMEOUTS = Metric(
    "topowatch_homology_timeouts_total",
    "counter",
    (),
    "Homology computations that took too long and were dropped since the daemon started.",
)
HOMOLOGY_REFUSED = Metric(
    "topowatch_homology_refused_total",
    "counter",
    (),
    "Homology computations that were estimated too large to be begun since the daemon started.",
)
# Of the daemon's own process, without its engine's, as prometheus_client tells them.
PROCESS_VIRTUAL = Metric("topowatch_process_virtual_memory_bytes", "gauge", (), "Virtual memory size in bytes.")
PROCESS_RESIDENT = Metric("topowatch_process_resident_memory_bytes", "gauge", (), "Resident memory size in bytes.")
PROCESS_START = Metric(
    "topowatch_process_start_time_seconds", "gauge", (), "Start time of the process since unix epoch in seconds."
)
PROCESS_CPU = Metric(
    "topowatch_process_cpu_seconds_total", "counter", (), "Total user and system CPU time spent in seconds."
)
PROCESS_FILES = Metric("topowatch_process_open_fds", "gauge", (), "Number of open file descriptors.")
PROCESS_MOST_FILES = Metric("topowatch_process_max_fds", "gauge", (), "Maximum number of open file descriptors.")
OF_PROCESS: Final = (
    PROCESS_VIRTUAL,
    PROCESS_RESIDENT,
    PROCESS_START,
    PROCESS_CPU,
    PROCESS_FILES,
    PROCESS_MOST_FILES,
)
SERIES_DROPPED = Metric(
    "topowatch_series_dropped_total",
    "counter",
    (),
    "Series left out of scrapes by the limits on series and labels, each counted once.",
)

# Come behind the detectors of a run, and so are left out first where it has more series than it may.
LAST_OF_RUN: Final = (FORECAST_METRIC, FORECAST_LOWER, FORECAST_UPPER, FORECAST_GAP, FORECAST_MISSES_TARGET)

METRICS: Final = (
    RUN_INFO,
    RUN_STEP,
    RUN_LOSS,
    RUN_LAST_SAMPLE,
    CLIENT_OVERHEAD,
    CLIENT_DROPPED,
    PATH_LENGTH,
    H0_TOTAL_PERSISTENCE,
    H1_TOTAL_PERSISTENCE,
    PH_DIMENSION,
    BETTI_DRIFT,
    PATH_CLASS,
    PATH_CLASS_P_VALUE,
    PATH_OUTLIER,
    CRITICAL_LR_RATIO,
    GRADIENT_FLOW_CONSISTENCY,
    LANDSCAPE_TOTAL_PERSISTENCE,
    MINIMUM_UNSTABLE,
    INSTABILITY_SCORE,
    DETECTOR_ACTIVE,
    FORECAST_METRIC,
    FORECAST_LOWER,
    FORECAST_UPPER,
    FORECAST_GAP,
    FORECAST_MISSES_TARGET,
    GROUP_FORECAST_R2,
    GROUP_FORECAST_BASELINE_R2,
    GROUP_FORECAST_COVERAGE,
    GROUP_FORECAST_ABSTAINED,
    GROUP_CLASSES,
    GROUP_ABSTAINED,
    GROUP_OUTLIERS,
    GROUP_WITHIN_CLASS_SPREAD,
    GROUP_BETWEEN_CLASS_SPREAD,
    GROUP_SPREAD_P_VALUE,
    CLUSTER_RUNS,
    CLUSTER_FORECAST_METRIC,
    BUILD_INFO,
    INGEST_READY,
    INGEST_SAMPLES,
    INGEST_REJECTED,
    INGEST_BYTES,
    REQUESTS_DENIED,
    ACKS,
    ACK_SECONDS,
    SHARD_LAG,
    SHARDS,
    SHARDS_WANTED,
    SHARD_RESTARTS,
    LOG_BYTES,
    DISK_FREE,
    DISK_SIZE,
    CERTIFICATE_EXPIRY,
    LOG_RECORDS_LOST,
    HOMOLOGY_TIMEOUTS,
    HOMOLOGY_REFUSED,
    *OF_PROCESS,
    SERIES_DROPPED,
)
