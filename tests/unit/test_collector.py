"""Metrics made at scrape time, and their text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from forecast_views import forecast, learned_view, score_view
from group_views import group_view, path_class
from topowatch_monitor.engine.view import at, no_class, no_forecast
from topowatch_monitor.export import registry
from topowatch_monitor.export.collector import MAX_LABEL_CHARACTERS, FleetCollector, clean
from topowatch_monitor.export.exposition import render
from topowatch_monitor.export.fleet import DaemonStats, Fleet, IngestSummary, unseen

NOW = 1_000_000.0
Scrape = Callable[..., dict[str, list[tuple[dict[str, str], float]]]]


def view(run: str = "a", **changes: Any) -> Any:
    made = unseen(IngestSummary(tenant="", group="g", run=run, samples=0, last_received_at=NOW))
    return {**made, "step": 40, "samples": 10, "loss": 0.5, **changes}


def flag(detector: str) -> dict[str, Any]:
    return {"detector": detector, "severity": "warning", "since_step": 3, "reason": "because"}


def collector_of(*views: Any, groups: Any = (), learned: Any = (), stats: DaemonStats | None = None) -> FleetCollector:
    fleet = Fleet(at)
    fleet.update(views)
    fleet.update_groups(groups)
    fleet.update_forecasts(learned)
    return FleetCollector(fleet, lambda: stats or DaemonStats(), lambda: NOW, "1.2.3")


def series(collector: FleetCollector) -> dict[str, list[tuple[dict[str, str], float]]]:
    """What Prometheus would read, by series name."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(render(collector.collect()).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def full(run: str = "a") -> Any:
    path = {
        "length": 3.0,
        "h0_total_persistence": 2.0,
        "h1_total_persistence": 0.25,
        "dimension": 1.5,
        "betti_drift": 0.125,
        "points": 9,
        "resolution": 0.1,
    }
    return view(
        run,
        path=path,
        overhead_ratio=0.003,
        dropped=4,
        instability_score=0.25,
        path_class=path_class(2, p_value=1e-9, outlier=True),
        critical_lr_ratio=0.75,
        gradient_flow_consistency=-0.5,
        landscape={"total_persistence": 1.25},
        forecast=forecast(
            0.875, 0.125, target=0.5, misses_target=False, gap={"value": 0.0625, "lower": 0.0, "upper": 0.125}
        ),
    )


def test_a_run_has_every_metric_that_is_known():
    found = series(collector_of(full()))
    labels = {"group": "g", "run": "a"}
    assert found["topowatch_run_step"] == [(labels, 40.0)]
    assert found["topowatch_run_loss"] == [(labels, 0.5)]
    assert found["topowatch_run_last_sample_timestamp_seconds"] == [(labels, NOW)]
    assert found["topowatch_client_overhead_ratio"] == [(labels, 0.003)]
    assert found["topowatch_client_dropped_samples_total"] == [(labels, 4.0)]
    assert found["topowatch_forecast_metric"] == [(labels, 0.875)]
    assert found["topowatch_forecast_lower"] == [(labels, 0.75)]
    assert found["topowatch_forecast_upper"] == [(labels, 1.0)]
    assert found["topowatch_forecast_gap"] == [(labels, 0.0625)]
    assert found["topowatch_forecast_misses_target"] == [(labels, 0.0)]
    assert found["topowatch_path_length"] == [(labels, 3.0)]
    assert found["topowatch_h0_total_persistence"] == [(labels, 2.0)]
    assert found["topowatch_h1_total_persistence"] == [(labels, 0.25)]
    assert found["topowatch_ph_dimension"] == [(labels, 1.5)]
    assert found["topowatch_betti_drift"] == [(labels, 0.125)]
    assert found["topowatch_path_class"] == [(labels, 2.0)]
    assert found["topowatch_path_class_p_value"] == [(labels, 1e-9)]
    assert found["topowatch_path_outlier"] == [(labels, 1.0)]
    assert found["topowatch_critical_lr_ratio"] == [(labels, 0.75)]
    assert found["topowatch_gradient_flow_consistency"] == [(labels, -0.5)]
    assert found["topowatch_landscape_total_persistence"] == [(labels, 1.25)]
    assert found["topowatch_minimum_unstable"] == [(labels, 0.0)]
    assert found["topowatch_run_info"] == [({**labels, "state": "live", "verdict": "warning"}, 1.0)]


def test_what_is_unknown_has_no_series():
    found = series(collector_of(view(loss=None, step=None)))
    for name in ("run_step", "run_loss", "client_overhead_ratio", "path_length", "ph_dimension"):
        assert f"topowatch_{name}" not in found


@pytest.mark.parametrize(
    "told",
    [no_class("too few runs"), {**path_class(0, p_value=1.0), "abstained": True}, path_class(None, p_value=None)],
)
def test_a_class_that_is_not_known_has_no_series(told: Any):
    """Where all is withheld every run has the label 0, which must not look like an answer."""
    found = series(collector_of(view(path_class={**told, "outlier": None})))
    assert not [name for name in found if name.startswith("topowatch_path_")]


def test_an_instability_score_has_a_series_while_it_is_known():
    found = series(collector_of(view("calm", instability_score=0.0), view("hot", instability_score=0.8)))
    assert found["topowatch_instability_score"] == [
        ({"group": "g", "run": "calm"}, 0.0),
        ({"group": "g", "run": "hot"}, 0.8),
    ]
    for unknown in (None, math.nan):
        assert "topowatch_instability_score" not in series(collector_of(view(instability_score=unknown)))


def test_a_run_among_its_siblings_has_its_label_and_is_no_outlier():
    found = series(collector_of(view(path_class=path_class(0))))
    assert found["topowatch_path_class"] == [({"group": "g", "run": "a"}, 0.0)]
    assert found["topowatch_path_outlier"] == [({"group": "g", "run": "a"}, 0.0)]


def test_a_group_has_its_classes_and_their_spread():
    found = series(collector_of(view(), groups=[group_view()]))
    labels = {"group": "g"}
    assert found["topowatch_group_classes"] == [(labels, 3.0)]
    assert found["topowatch_group_abstained"] == [(labels, 0.0)]
    assert found["topowatch_group_outliers"] == [(labels, 2.0)]
    assert found["topowatch_group_within_class_spread"] == [(labels, 0.004)]
    assert found["topowatch_group_between_class_spread"] == [(labels, 0.05)]
    assert found["topowatch_group_spread_p_value"] == [(labels, 0.001)]


def test_what_is_not_known_of_a_group_has_no_series():
    spread = {**group_view()["spread"], "within": None, "between": None, "p_value": math.nan}
    found = series(collector_of(view(), groups=[group_view(abstained=True, classes=[], spread=spread)]))
    assert [name for name in found if name.startswith("topowatch_group_")] == ["topowatch_group_abstained"]
    assert found["topowatch_group_abstained"] == [({"group": "g"}, 1.0)]


def test_series_of_a_group_vanish_with_the_last_of_its_runs():
    fleet = Fleet(at, ended_series_seconds=300)
    fleet.update([view(state="ended", last_received_at=NOW), {**view("b"), "group": "other"}])
    fleet.update_groups([group_view()])
    moment = [NOW + 300]
    collector = FleetCollector(fleet, DaemonStats, lambda: moment[0], "1.2.3")
    assert "topowatch_group_classes" in series(collector)
    moment[0] += 1
    assert "topowatch_group_classes" not in series(collector)


def test_groups_of_tenants_are_told_apart_and_names_that_fall_together_are_left_out():
    mine, theirs = view(), view(tenant="physics")
    found = series(collector_of(mine, theirs, groups=[group_view(), group_view(tenant="physics", classes=[])]))
    assert [labels for labels, _ in found["topowatch_group_abstained"]] == [
        {"group": "g"},
        {"tenant": "physics", "group": "g"},
    ]
    runs = [{**view(), "group": "g\x01"}, {**view("b"), "group": "g\x02"}]
    found = series(collector_of(*runs, groups=[group_view("g\x01"), group_view("g\x02")]))
    assert len(found["topowatch_group_classes"]) == 1
    assert found["topowatch_series_dropped_total"][0][1] == 6


def test_a_loss_that_is_not_a_number_is_shown_as_such():
    [(_, value)] = series(collector_of(view(loss=math.nan)))["topowatch_run_loss"]
    assert math.isnan(value)
    [(_, value)] = series(collector_of(view(loss=math.inf)))["topowatch_run_loss"]
    assert value == math.inf


def test_detectors_have_series_only_while_they_are_active():
    assert "topowatch_detector_active" not in series(collector_of(view()))
    found = series(collector_of(view(flags=[flag("loss_rise"), flag("stalled_run")])))
    assert [labels["detector"] for labels, _ in found["topowatch_detector_active"]] == ["loss_rise", "stalled_run"]


def test_runs_are_counted_by_verdict_with_zeros():
    found = series(collector_of(view("a"), view("b", minimum_unstable=True), view("c")))
    counts = {labels["verdict"]: value for labels, value in found["topowatch_cluster_runs"]}
    assert counts == {"healthy": 2, "unstable": 1, "warning": 0, "lost": 0, "starting": 0}


def test_a_tenant_is_a_label_where_there_is_one():
    found = series(collector_of(view(), view(tenant="physics")))
    labels = [labels for labels, _ in found["topowatch_run_step"]]
    assert {"group": "g", "run": "a"} in labels
    assert {"tenant": "physics", "group": "g", "run": "a"} in labels


def test_a_run_never_has_more_series_than_promised_and_what_is_left_out_is_counted():
    collector = collector_of(view(flags=[flag(f"detector_{number:02d}") for number in range(50)]))
    found = series(collector)
    mine = [one for samples in found.values() for one in samples if one[0].get("run") == "a"]
    assert len(mine) == registry.MAX_SERIES_PER_RUN
    [(_, first)] = found["topowatch_series_dropped_total"]
    assert first == 50 + 6 - registry.MAX_SERIES_PER_RUN
    assert series(collector)["topowatch_series_dropped_total"] == [({}, first)]


def test_series_left_out_are_counted_once_for_each_run_and_never_fewer():
    """However many Prometheus servers scrape, and whatever the run does afterwards; a counter must not fall."""
    fleet = Fleet(at)
    collector = FleetCollector(fleet, DaemonStats, lambda: NOW, "1.2.3")

    def left_out(run: str, detectors: int) -> float:
        fleet.update([view(run, flags=[flag(f"detector_{number:02d}") for number in range(detectors)])])
        [(_, value)] = series(collector)["topowatch_series_dropped_total"]
        return value

    room = registry.MAX_SERIES_PER_RUN - 6
    assert left_out("a", room) == 0
    assert left_out("a", room + 5) == 5
    assert left_out("a", room + 3) == 5
    assert left_out("a", 0) == 5
    assert left_out("a", room + 7) == 7
    assert left_out("b", room + 2) == 9


def test_names_that_fall_together_do_not_break_the_scrape():
    """Two series with equal labels make Prometheus refuse a whole scrape; the second run is left out and counted."""
    found = series(collector_of(view("a\x01"), view("a\x02")))
    assert len(found["topowatch_run_step"]) == 1
    assert found["topowatch_series_dropped_total"][0][1] > 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("plain", "plain"), ("tab\there", "tab�here"), ("\ud800", "�"), ("é ü 字", "é ü 字"), ("a\u2028b", "a�b")],
)
def test_label_values_are_cleaned(text: str, expected: str):
    assert clean(text) == expected


def test_long_label_values_are_cut():
    assert len(clean("x" * 1000)) == MAX_LABEL_CHARACTERS


def test_a_group_tells_how_good_its_forecasts_were_once_enough_runs_have_ended():
    """At half of the steps; the best plain forecast stands beside it. How often intervals hold takes more runs."""
    labels = {"group": "g"}
    told = learned_view()
    found = series(collector_of(view("a"), learned=[told]))
    assert "topowatch_group_forecast_coverage" not in found
    told["levels"][1]["made"] = score_view(0.88, 30, 0.93)
    found = series(collector_of(view("a"), learned=[told]))
    assert found["topowatch_group_forecast_r2"] == [(labels, 0.88)]
    assert found["topowatch_group_forecast_baseline_r2"] == [(labels, pytest.approx(0.69))]
    assert found["topowatch_group_forecast_coverage"] == [(labels, 0.93)]
    few = learned_view()
    few["levels"][1]["made"] = score_view(0.99, 7, 1.0)
    found = series(collector_of(view("a"), groups=[group_view()], learned=[few]))
    assert "topowatch_group_forecast_r2" not in found
    assert "topowatch_group_forecast_coverage" not in found
    nothing = learned_view(metric=None, levels=[])
    assert "topowatch_group_forecast_baseline_r2" not in series(
        collector_of(view("a"), groups=[group_view()], learned=[nothing])
    )


def test_a_group_tells_of_how_many_live_runs_nothing_is_forecast():
    """Runs that have hardly begun do not count, nor do those that ended."""
    runs = [
        view("a", forecast=forecast(0.8, target=0.9, misses_target=True)),
        view("b", forecast=no_forecast("strange")),
        view("c", forecast=no_forecast("too early", early=True)),
        view("d", forecast=no_forecast("it has ended"), state="ended"),
    ]
    found = series(collector_of(*runs, learned=[learned_view()]))
    assert found["topowatch_group_forecast_abstained"] == [({"group": "g"}, 0.5)]
    assert found["topowatch_forecast_misses_target"] == [({"group": "g", "run": "a"}, 1.0)]
    found = series(collector_of(*runs, learned=[learned_view(metric=None, levels=[])]))
    assert "topowatch_group_forecast_abstained" not in found


def test_quantiles_over_the_cluster_are_of_runs_that_are_forecast_in_one_metric():
    losses = [view(f"l{number}", group="h", forecast=forecast(number, metric="loss")) for number in range(11)]
    one = view("a", forecast=forecast(0.8))
    ended = view("z", forecast=forecast(0.1), state="ended")
    found = series(collector_of(*losses, one, ended))["topowatch_cluster_forecast_metric"]
    assert {(labels["metric"], labels["quantile"]): value for labels, value in found} == {
        **{("loss", str(quantile)): pytest.approx(10 * quantile) for quantile in (0.1, 0.5, 0.9)},
        **{("test_accuracy", quantile): 0.8 for quantile in ("0.1", "0.5", "0.9")},
    }


def test_only_registered_metrics_are_exported_with_their_registered_labels():
    stats = DaemonStats(
        rejected_total={"x": 1},
        denied_total={"grpc": 0},
        acks_total={"stored": 0},
        ack_seconds_buckets=((math.inf, 0),),
        disk_free_bytes=1,
        disk_size_bytes=2,
        certificate_ends_at=3.0,
    )
    known = {metric.name: metric for metric in registry.METRICS}
    exported = set()
    runs = full(), view("b", flags=[flag("loss_rise")])
    told = learned_view()
    told["levels"][1]["made"] = score_view(0.88, 30, 0.93)
    for family in collector_of(*runs, groups=[group_view()], learned=[told], stats=stats).collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        metric = known[name]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)
            exported.add(name)
    assert exported == set(known)


def test_the_text_says_the_same_as_prometheus_clients_own():
    """Our faster writer against prometheus_client's, on names that need escapes and numbers of every kind."""
    stats = DaemonStats(ack_seconds_buckets=((0.5, 1), (math.inf, 2)), ack_seconds_sum=1e-9, log_bytes=10**17)
    collector = collector_of(
        full('quote " backslash \\ n'),
        view("b", loss=math.nan, flags=[flag("x")]),
        view("c", loss=-math.inf),
        view("d", loss=1e300),
        groups=[group_view()],
        stats=stats,
    )
    families = list(collector.collect())  # once: what the process takes changes meanwhile
    theirs = SimpleNamespace(collect=lambda: families)

    def parsed(text: str) -> list[Any]:
        families = text_string_to_metric_families(text)
        return [
            (family.name, family.type, family.documentation, sample.name, sample.labels, repr(sample.value))
            for family in families
            for sample in family.samples
        ]

    assert parsed(render(families).decode()) == parsed(generate_latest(theirs).decode())


def test_a_tenant_is_shown_its_own_runs_and_nothing_of_the_daemon():
    mine, theirs = view(tenant="vision"), view("b", tenant="speech")
    groups = [group_view(tenant="vision"), group_view(tenant="speech")]
    collector = collector_of(mine, theirs, groups=groups)
    text = render(collector.collect("vision")).decode()
    assert set(re.findall('tenant="([^"]*)"', text)) == {"vision"}
    assert 'topowatch_cluster_runs{verdict="healthy"} 1.0' in text
    assert "ingest" not in text
    assert "build_info" not in text


def test_a_tenant_with_too_many_series_takes_no_room_of_anothers():
    fleet = Fleet(at)
    fleet.update([*(view(f"run-{number}", tenant="large") for number in range(5)), view("small", tenant="other")])
    fleet.update_groups([group_view(tenant="large"), group_view(tenant="other")])

    def counted(limit: int | None) -> tuple[int, int, float]:
        found = series(FleetCollector(fleet, DaemonStats, lambda: NOW, "1.2.3", tenant_series=limit))
        tenants = [labels.get("tenant") for samples in found.values() for labels, _ in samples]
        [(_, left_out)] = found["topowatch_series_dropped_total"]
        return tenants.count("large"), tenants.count("other"), left_out

    large, small, left_out = counted(None)
    assert (large > 20 > small, left_out) == (True, 0)
    assert counted(20) == (20, small, large - 20)
