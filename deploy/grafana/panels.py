"""What the dashboards have in common: where data comes from, what is looked at, and how a panel is drawn."""
# ruff: noqa: INP001 - imported by a script beside it, and the folder is no package

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as model

if TYPE_CHECKING:
    from collections.abc import Mapping

GROUP = '{group=~"$group"}'
RUN = '{group=~"$group", run=~"$run"}'
SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")


def empty(title: str, uid: str, meaning: str) -> dashboard.Dashboard:
    """Return a dashboard without panels, on which datasource, group and run are chosen."""
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(meaning)
        .tags(["topowatch"])
        .timezone("browser")
        .time("now-6h", "now")
        .refresh("30s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_chosen("group", "Group", "label_values(topowatch_run_info, group)"))
        .with_variable(_chosen("run", "Run", f"label_values(topowatch_run_info{GROUP}, run)"))
    )


def _chosen(name: str, label: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query({"query": query, "refId": name})
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC)
        .multi(True)
        .include_all(True)
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
    )


def drawn(panel: Any, title: str, meaning: str, queries: Mapping[str, str], *, span: int, height: int) -> Any:
    """Give a panel its title, place and queries."""
    panel = panel.title(title).description(meaning).datasource(SOURCE).span(span).height(height)
    for letter, (legend, expression) in zip("ABCDEFGH", queries.items(), strict=False):
        target = prometheus.Dataquery().ref_id(letter).datasource(SOURCE).expr(expression).legend_format(legend)
        panel = panel.with_target(target.range())
    return panel


def curves(title: str, meaning: str, queries: Mapping[str, str], *, span: int = 12, log: bool = False) -> Any:
    """Return a panel of curves over time.

    Args:
        title: of the panel.
        meaning: shown on hovering over the title.
        queries: PromQL by legend.
        span: of 24 columns.
        log: whether the axis is logarithmic.
    """
    legend = common.VizLegendOptions().display_mode(kinds.LegendDisplayMode.LIST)
    panel = drawn(timeseries.Panel(), title, meaning, queries, span=span, height=8)
    panel = panel.legend(legend.placement(kinds.LegendPlacement.BOTTOM).show_legend(True))
    panel = panel.tooltip(
        common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING)
    )
    if log:
        scale = common.ScaleDistributionConfig().type(kinds.ScaleDistribution.LOG).log(10)
        panel = panel.scale_distribution(scale)
    return panel


def stacked(panel: Any) -> Any:
    """Stack the curves of a panel that counts."""
    stacking = common.StackingConfig().mode(kinds.StackingMode.NORMAL).group("A")
    return panel.stacking(stacking).fill_opacity(40).decimals(0).min(0)


def figure(title: str, meaning: str, queries: Mapping[str, str], *, span: int = 6) -> Any:
    """Return a panel of latest values."""
    latest = common.ReduceDataOptions().calcs(["lastNotNull"])
    panel = drawn(stat.Panel(), title, meaning, queries, span=span, height=4).no_value("–")
    return (
        panel.reduce_options(latest).graph_mode(kinds.BigValueGraphMode.NONE).color_mode(kinds.BigValueColorMode.VALUE)
    )
