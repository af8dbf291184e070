"""What the dashboards have in common: where data comes from, what is looked at, and how a panel is drawn."""
# ruff: noqa: INP001 - imported by a script beside it, and the folder is no package

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import prometheus as promkinds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GROUP = '{tenant=~"$tenant", group=~"$group"}'
RUN = '{tenant=~"$tenant", group=~"$group", run=~"$run"}'
RUNS_BY_VERDICT = "verdict:topowatch_cluster_runs:sum"  # recorded by the rules
SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")


def where(more: str) -> str:
    """Return the selector of the chosen runs with another matcher."""
    return RUN.replace("}", f", {more}}}")


def empty(title: str, uid: str, meaning: str) -> dashboard.Dashboard:
    """Return a dashboard without panels, on which the datasource is chosen, and which leads to the others."""
    others = dashboard.DashboardLink("topowatch").type(model.DashboardLinkType.DASHBOARDS).tags(["topowatch"])
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(meaning)
        .tags(["topowatch"])
        .timezone("browser")
        .time("now-6h", "now")
        .refresh("30s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(others.as_dropdown(True).include_vars(True).keep_time(True))
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )


def about_runs(title: str, uid: str, meaning: str) -> dashboard.Dashboard:
    """Return the same, on which tenant, group and run are chosen as well."""
    return (
        empty(title, uid, meaning)
        .with_variable(_chosen("tenant", "Tenant", "label_values(topowatch_run_info, tenant)"))
        .with_variable(_chosen("group", "Group", 'label_values(topowatch_run_info{tenant=~"$tenant"}, group)'))
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
        .all_value(".*")  # runs of the default tenant have no such label
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
    )


def drawn(panel: Any, title: str, meaning: str, queries: Mapping[str, str], *, span: int, height: int) -> Any:
    """Give a panel its title, place and queries."""
    panel = panel.title(title).description(meaning).datasource(SOURCE).span(span).height(height)
    for letter, (legend, expression) in zip("ABCDEFGH", queries.items(), strict=False):
        target = prometheus.Dataquery().ref_id(letter).datasource(SOURCE).expr(expression).legend_format(legend)
        panel = panel.with_target(target.range())
    return panel


def rows(made: dashboard.Dashboard, panels: Mapping[str, Sequence[Any]]) -> dashboard.Dashboard:
    """Add panels by the title of their row."""
    for title, below in panels.items():
        made = made.with_row(dashboard.Row(title))
        for panel in below:
            made = made.with_panel(panel)
    return made


def listed(title: str, meaning: str, expression: str, columns: Sequence[str], *, span: int = 12) -> Any:
    """Return a panel that lists the series that there are now, by some of their labels."""
    query = prometheus.Dataquery().ref_id("A").datasource(SOURCE).expr(expression).legend_format("__auto")
    query = query.instant().format(promkinds.PromQueryFormat.TABLE)
    order = {
        "includeByName": dict.fromkeys(columns, True),
        "indexByName": {name: number for number, name in enumerate(columns)},
    }
    chosen = model.DataTransformerConfig(id_val="organize", options=order)
    panel = table.Panel().title(title).description(meaning).datasource(SOURCE).span(span).height(8)
    return panel.with_target(query).with_transformation(chosen)


def leading(panel: Any, board: str, *, of: Literal["run", "group"] = "run") -> Any:
    """Let each value of a panel lead to another dashboard, on which its run or group is chosen.

    The tenant stays as it is chosen: series of the default one have no such label.
    """
    at = "__data.fields" if isinstance(panel, table.Panel) else "__field.labels"
    group = f"var-group=${{{at}.group:percentencode}}"
    run = f"var-run=${{{at}.run:percentencode}}" if of == "run" else "${run:queryparam}"
    passed = f"${{datasource:queryparam}}&${{tenant:queryparam}}&{group}&{run}&${{__url_time_range}}"
    link = dashboard.DashboardLink(f"{board}: this {of}").url(f"/d/topowatch-{board}?{passed}")
    return panel.data_links([link])


def switched(title: str, meaning: str, queries: Mapping[str, str], *, span: int = 24) -> Any:
    """Return a panel of what was on when: 1 is, 0 and no series are not."""
    panel = drawn(statetimeline.Panel(), title, meaning, queries, span=span, height=8)
    return panel.show_value(kinds.VisibilityMode.NEVER).merge_values(True)


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
