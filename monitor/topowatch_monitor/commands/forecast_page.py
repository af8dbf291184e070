"""How forecasts look in the terminal: of a run, of a group with the worth of such forecasts, and of all groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from topowatch_monitor.commands.render import UNKNOWN, number, percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

WORDS = {"run", "group", "metric", "why not", "best", "advice"}
DRIVERS = {
    "loss": "how the training loss has come down",
    "curve": "the metric so far",
    "path": "how long its path is",
    "topology": "the shape of its path",
    "landscape": "the loss around it",
    "probes": "how sure it is of the probes",
    "siblings": "how far it agrees with its siblings",
    "weights": "its weights, gradients and updates",
}
_TOLD_DRIVERS = 4
_LEGEND = (
    "R² of forecasts as they were made, of each run by the others, the same without topology, and of the best plain "
    "one; held: of the results, within 90 % intervals; saves, costs: share of all steps, had the worse half been "
    "stopped then, and how much worse the best would be"
)


def forecast_page(answer: Mapping[str, Any]) -> RenderableType:
    """Lay out the daemon's answer about a group."""
    live = [run for run in answer["runs"] if run["state"] == "live"]
    counts = f"{number(len(live))} live runs, {number(len(answer['runs']) - len(live))} others"
    parts: list[RenderableType] = [Text.assemble(("group ", "dim"), (answer["group"], "bold"), (f"  {counts}", "dim"))]
    if answer["abstained"]:
        parts.append(Text.assemble("\nForecasts: ", ("abstained", "dim"), f", {answer['reason']}"))
    else:
        parts += _runs(live, higher_is_better=_higher(answer))
    for view in answer["learned"]:
        parts += _worth(view)
    return Group(*parts)


def run_forecast_page(run: Mapping[str, Any], answer: Mapping[str, Any]) -> RenderableType:
    """Lay out one run's forecast, beside what the daemon answers about its group."""
    told = run["forecast"]
    parts: list[RenderableType] = [
        Text.assemble(
            ("run ", "dim"), (run["run"], "bold"), (f"  group {run['group']}, step {number(run['step'])}", "dim")
        )
    ]
    if told["abstained"]:
        parts.append(Text.assemble("\nForecast: ", ("abstained", "dim"), f", {told['reason']}"))
    else:
        table = Table.grid(padding=(0, 2, 0, 0))
        for key, value in _facts(told, run["run"], answer):
            table.add_row(Text(key, style="dim"), value)
        parts += [Text("\nForecast", style="bold"), Padding(table, (0, 0, 0, 2))]
        effects = Table.grid(padding=(0, 2, 0, 0))
        for family, effect in list(told["drivers"].items())[:_TOLD_DRIVERS]:
            sign = "+" if effect >= 0 else "−"
            effects.add_row(Text(f"{sign}{number(abs(effect))}"), Text(DRIVERS.get(family, family)))
        heading = Text.assemble(("\nWhat drives it", "bold"), ("  against a run that is as usual there", "dim"))
        parts += [heading, Padding(effects, (0, 0, 0, 2))]
    for view in answer["learned"]:
        parts += _worth(view)
    return Group(*parts)


def fleet_page(answer: Mapping[str, Any]) -> RenderableType:
    """Lay out the daemon's answer about all groups."""
    if not answer["groups"]:
        return Text("No run is live, so there is nothing to forecast. `topowatch runs` lists those that ended.")
    table = _table("group", "metric", "told", "best", "ends with", "90 %", "miss target")
    for group in answer["groups"]:
        best = group["best"]
        table.add_row(
            Text(group["group"]),
            Text(group["metric"] or UNKNOWN),
            f"{number(group['told'])} of {number(group['live'])}",
            Text(UNKNOWN if best is None else best["run"]),
            UNKNOWN if best is None else number(best["value"]),
            UNKNOWN if best is None else f"{number(best['lower'])} to {number(best['upper'])}",
            number(group["missing_target"]) if group["missing_target"] else UNKNOWN,
        )
    parts: list[RenderableType] = [Text("Live runs of all groups", style="bold"), Padding(table, (0, 0, 0, 2))]
    silent = [group for group in answer["groups"] if not group["told"]]
    for group in silent:
        why = "nothing has been learned about it yet" if group["learned"] is None else group["learned"]["reason"]
        parts.append(Text(f"  {group['group']}: {why or 'its runs are told by topowatch forecast ' + group['group']}"))
    if answer["quantiles"]:
        quantiles = _table("metric", "tenth", "median", "nine tenths")
        for metric, found in answer["quantiles"].items():
            quantiles.add_row(Text(metric), *(number(value) for value in found.values()))
        parts += [Text("\nOver all groups", style="bold"), Padding(quantiles, (0, 0, 0, 2))]
    return Group(*parts)


def _facts(told: Mapping[str, Any], name: str, answer: Mapping[str, Any]) -> list[tuple[str, Text]]:
    """What is told of a run, as pairs of words."""
    facts = [
        (
            told["metric"],
            Text(f"{number(told['value'])} ({'more' if _higher(answer) else 'less'} is better)", style="bold"),
        ),
        ("90 % interval", Text(f"{number(told['lower'])} to {number(told['upper'])}")),
    ]
    gap = told["gap"]
    if gap is not None:
        facts.append(("gap", Text(f"{number(gap['value'])} ({number(gap['lower'])} to {number(gap['upper'])})")))
    if told["target"] is not None:
        missed = told["misses_target"]
        words = f"{number(told['target'])}, " + ("out of reach" if missed else "within reach")
        facts.append(("target", Text(words, style="yellow" if missed else "green")))
    ranked = _ranked([run for run in answer["runs"] if run["state"] == "live"], higher_is_better=_higher(answer))
    place = next((place for place, run in enumerate(ranked) if run["run"] == name), None)
    if place is not None and len(ranked) > 1:
        words = f"{number(place + 1)} of {number(len(ranked))} live runs with a forecast: "
        facts.append(("rank", Text(words).append_text(_advice(place, len(ranked)))))
    facts.append(("as it was at step", Text(number(told["step"]))))
    if told["others"]:
        facts.append(("learned from", Text(f"{number(told['others'])} other groups")))
    return facts


def _higher(answer: Mapping[str, Any]) -> bool:
    return all(view["higher_is_better"] for view in answer["learned"])


def _ranked(runs: Sequence[Mapping[str, Any]], *, higher_is_better: bool) -> list[Mapping[str, Any]]:
    told = [run for run in runs if not run["abstained"] and run["value"] is not None]
    return sorted(told, key=lambda run: run["value"], reverse=higher_is_better)


def _advice(place: int, count: int) -> Text:
    """What to do with a run: the worse half may be stopped."""
    return Text("continue", style="green") if place < (count + 1) // 2 else Text("stop", style="yellow")


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        words = name in WORDS
        table.add_column(Text(name), justify="left" if words else "right", overflow="fold", no_wrap=not words)
    return table


def _runs(runs: Sequence[Mapping[str, Any]], *, higher_is_better: bool) -> list[RenderableType]:
    """Lay out the live runs, the best forecast first; the worse half of those that have one may be stopped."""
    told, silent = _ranked(runs, higher_is_better=higher_is_better), [run for run in runs if run["abstained"]]
    gaps = any(run["gap"] is not None for run in told)
    better = "more" if higher_is_better else "less"
    heading = Text.assemble(("\nLive runs", "bold"), (f"  {told[0]['metric']}, {better} is better", "dim"))
    table = _table("run", "step", "forecast", "90 %", *(["gap"] if gaps else []), "advice")
    for place, run in enumerate(told):
        advice = _advice(place, len(told))
        if run["misses_target"]:
            advice.append(", off target")
        interval = f"{number(run['lower'], 3)} to {number(run['upper'], 3)}"
        gap = [UNKNOWN if run["gap"] is None else number(run["gap"]["value"], 3)] if gaps else []
        table.add_row(Text(run["run"]), number(run["at"]), number(run["value"]), interval, *gap, advice)
    parts: list[RenderableType] = [heading, Padding(table, (0, 0, 0, 2))]
    if silent:
        rest = _table("run", "step", "why not")
        for run in silent:
            rest.add_row(Text(run["run"]), number(run["at"]), Text(run["reason"]))
        parts += [Text("\nWithout a forecast", style="bold"), Padding(rest, (0, 0, 0, 2))]
    return parts


def _worth(view: Mapping[str, Any]) -> list[RenderableType]:
    """Lay out how good forecasts were, beside plain ones, and what stopping the worse half by them would have cost."""
    if view["metric"] is None:
        return [Text(f"\nNothing was learned: {view['reason']}")]
    table = _table("share", "made", "runs", "held", "left out", "no topology", "plain", "saves", "costs")
    for level in view["levels"]:
        made, left_out, halving = level["made"], level["left_out"], level["halving"]
        plain = [r2 for r2 in level["baselines"].values() if r2 is not None]
        table.add_row(
            percent(level["share"], 0),
            number(made["r2"], 2),
            number(made["runs"]),
            percent(made["coverage"], 0),
            number(left_out["r2"], 2),
            number(level["without_topology"], 2),
            number(max(plain, default=None), 2),
            UNKNOWN if halving is None else percent(halving["saved"], 0),
            UNKNOWN if halving is None else number(halving["regret"], 2),
        )
    source = f"{view['runs']} ended runs" + (f" of {', '.join(view['others'])}" if view["others"] else "")
    heading = Text.assemble(
        ("\nWhat forecasts were worth", "bold"), (f"  {view['metric']}, learned from {source}", "dim")
    )
    told = Text(_LEGEND, style="dim")
    return [heading, Padding(table, (0, 0, 0, 2)), Padding(told, (0, 0, 0, 2)), *_verdict(view["levels"])]


def _verdict(levels: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """Where topology is used, in a sentence: where runs that were left out are forecast better with it."""
    used = [percent(level["share"], 0) for level in levels if level["topological"]]
    known = any(level["topological"] is not None for level in levels)
    told = f"used at {', '.join(used)} of the steps" if used else "left out, as it does not help here"
    return [Text(f"  topology is {told}", style="dim")] if known else []
