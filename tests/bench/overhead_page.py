"""The page of docs that the benchmark of overhead writes, and which bars it finds missed."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from tabular import table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OURS = "topowatch"
BARS = {"cpu": 1.005, "p99": 1.01}  # ratios above the control's, at default settings
SAMPLES_EVERY, PROBES_EVERY = 64, 1024  # steps at most, for those to count
AGREEMENT = 1.5  # between the client's own figure and the measured one
ATTACH_SECONDS = 0.1
HOOK_SECONDS = 1e-3
FINISH_SECONDS = 5.0
MEGABYTES = 20.0
_RESOLVED = 0.01  # an overhead surely below this is too close to noise for its figures to be compared
_KINDS = {"cpu": "CPU time", "mean": "mean", "median": "median", "p99": "p99"}

_HEAD = """\
# What watching costs a training

Written by `make bench-overhead`. Bare and watched steps take turns in one process: each side once, in random order,
then the next round. *bare*, *control* (bare once more) and topowatch train the same tensors in the same memory
through optimisers of their own; the other tools, which leave hooks on tensors, each train a copy. A tool's other
processes, such as topowatch's forwarder, run while it has its turn and count with it; the daemon, one that only
records, does not count.

Each figure is the ratio to *bare* with a 95 % bootstrap interval over rounds; *above control* is the ratio to the
control's. Times are of whole steps: median, mean and 99th percentile by the wall clock, and processor time of all
threads and processes. Bars for topowatch at its default settings, above control: {cpu} for processor time, {p99}
for the 99th percentile. *By itself* is topowatch without the other tools: a round is shorter then, and what the
machine does between turns differs less.
"""
_WATCHED = """\
What the client says it costs and what it was measured to cost in processor time above control; what its hook takes
beyond sketches, their sums, norms and probe passes, on steps with a look at the weights (median, p99) and on all (p99;
bar 1 ms).
"""
_SINGLE = """\
In fresh processes that have torch and a model. Machine: {machine}.
Bars: attach 100 ms, finish 5 s, memory 20 MB with sketches and predictions, over a twin that is not watched: what is
allocated and not freed, what is resident, and that at its peak (medians of five processes each, of the largest model
three; the last two vary by 10 MB and more from process to process, of the largest by up to 45).
"""


def page(results: Mapping[str, Any]) -> str:
    """Return the page."""
    lines = [_HEAD.format(**BARS)]
    for model in results.get("models", {}).values():
        lines += _of_model(model)
    if "single" in results:
        lines += _of_single(results["single"])
    lines += ["## Bars missed", "", *([f"- {line}" for line in missed(results)] or ["None."])]
    return "\n".join([*lines, ""])


def missed(results: Mapping[str, Any]) -> list[str]:
    """Say which bars are missed, in words."""
    return [*_missed_by_models(results.get("models", {})), *_missed_alone(results.get("single", {}))]


def _missed_by_models(models: Mapping[str, Any]) -> Iterator[str]:
    for model in models.values():
        title, ours = f"{model['title']} ({model['device']})", model["sides"].get(OURS)
        if ours is None:
            continue
        for kind, bar in BARS.items():
            if ours[kind]["above"][0] > bar:
                yield f"{title}: {_KINDS[kind]} {_ratio(ours[kind]['above'])} above control, bar {bar}"
        for kind, every in (("samples", SAMPLES_EVERY), ("probe_passes", PROBES_EVERY)):
            if ours[kind] < max(model["steps"] // every, 1):
                what = f"{ours[kind]} {kind.replace('_', ' ')} in {model['steps']} steps"
                yield f"{title}: {what}; one in {every:,} is asked for"
        if ours["hook"]["p99"] > HOOK_SECONDS:
            yield f"{title}: p99 of the hook is {ours['hook']['p99'] * 1e3:.2f} ms, bar 1 ms"
        for name, side in model["sides"].items():
            factor = _disagreement(side)
            if factor > AGREEMENT:
                yield f"{title}, {name}: own figure and measured one differ by {factor:.2f} ×, bar {AGREEMENT} ×"


def _missed_alone(single: Mapping[str, Any]) -> Iterator[str]:
    for model, times in single.get("attach", {}).items():
        if max(times["attach"]) > ATTACH_SECONDS:
            yield f"attach to {model} took up to {max(times['attach']) * 1e3:.0f} ms, bar 100 ms"
    for kind, seconds in single.get("finish", {}).items():
        if max(seconds) > FINISH_SECONDS:
            yield f"finish took up to {max(seconds):.1f} s with the daemon {kind}, bar 5 s"
    for model, added in single.get("memory", {}).items():
        if max(added["held"], added["resident"]) > MEGABYTES:
            yield f"memory added to {model}: {added['held']:.0f} MB allocated, {added['resident']:.0f} resident, bar 20"


def _of_model(model: Mapping[str, Any]) -> list[str]:
    sides = model["sides"]
    rows = [
        [
            f"{name} {side['version']}".strip(),
            *(_ratio(side[kind]["ratio"]) for kind in _KINDS),
            *(_ratio(side[kind]["above"]) if name != "control" else "" for kind in BARS),
        ]
        for name, side in sides.items()
        if name != "bare"
    ]
    about = (
        f"{model['parameters'] / 1e6:.1f} million parameters, {model['batch']} a step, AdamW; {model['device']}, "
        f"threads: {model['threads']}.\nA bare step takes {sides['bare']['median']['seconds'] * 1e3:.0f} ms; "
        f"{model['steps']} steps a side, in turns of {model['turn']}.\n"
        f"Machine: {model['machine']}; load at the end {model['load']:.1f}."
    )
    head = ["side", *_KINDS.values(), *(f"{_KINDS[kind]}, above control" for kind in BARS)]
    lines = [f"## {model['title']}", "", about, "", *table(head, rows), ""]
    for name, reason in model["absent"].items():
        lines += [f"{name} could not be measured: {reason}.", ""]
    rows = [_of_watched(name, side) for name, side in sides.items() if "interval" in side]
    head = ["side", "steps between samples", "updates", "passes", "samples seen", "passes", "own figure"]
    return [*lines, _WATCHED, *table([*head, "measured", "hook with a look", "hook"], rows), ""] if rows else lines


def _of_watched(name: str, side: Mapping[str, Any]) -> list[str]:
    measured, low, high = (ratio - 1 for ratio in side["cpu"]["above"])
    hook = {kind: f"{seconds * 1e3:.2f}" for kind, seconds in side["hook"].items()}
    return [
        name,
        *(f"{side[kind]:,}" for kind in ("interval", "update_interval", "probe_interval", "samples", "probe_passes")),
        f"{side['own']['ratio']:.2%}",
        f"{measured:.2%} ({low:.2%} to {high:.2%})",
        f"{hook['looking_median']}, {hook['looking_p99']} ms",
        f"{hook['p99']} ms",
    ]


def _of_single(single: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            model,
            f"{statistics.median(times['attach']) * 1e3:.0f} ms, at most {max(times['attach']) * 1e3:.0f}",
            f"{statistics.median(times['import']) * 1e3:.0f} ms",
            f"{single['memory'][model]['held']:.1f} MB",
            f"{single['memory'][model]['resident']:.1f} MB",
            f"{single['memory'][model]['peak']:.1f} MB",
        ]
        for model, times in single["attach"].items()
    ]
    words = {"refused": "where connections are refused", "silent": "where they are taken and never answered"}
    finish = ", ".join(f"{max(seconds):.2f} s {words[kind]}" for kind, seconds in single["finish"].items())
    wandb = single.get("wandb")
    beside = []
    if wandb is not None:
        end = "raised" if wandb["raised"] else "returned"
        beside = [f"`wandb.init` online, where connections are refused, {end} after {wandb['seconds']:.1f} s.", ""]
    return [
        "## Where no daemon answers, and memory",
        "",
        _SINGLE.format(machine=single["machine"]),
        *table(["model", "attach", "the import before it", "allocated", "resident", "at the peak"], rows),
        "",
        f"`finish` took at most {finish}.",
        "",
        *beside,
    ]


def _ratio(values: list[float]) -> str:
    return "{:.3f} ({:.3f} to {:.3f})".format(*values)


def _disagreement(side: Mapping[str, Any]) -> float:
    """The factor between own figure and measured one; 1 for sides without one and where noise may hide the cost."""
    measured, low, _ = (ratio - 1 for ratio in side["cpu"]["above"])
    if "own" not in side or low < _RESOLVED:
        return 1.0
    factor = side["own"]["ratio"] / measured
    return float(max(factor, 1 / factor))
