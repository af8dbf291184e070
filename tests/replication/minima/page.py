"""The figures as a page of tables: `PYTHONPATH=tests python -m replication.minima.page` writes and prints it anew."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.tabular import table
from replication.minima.failures import HEALTHY, KINDS

RESULTS = Path(__file__).parents[1] / "results" / "minima.json"
PAGE = Path(__file__).parents[3] / "docs" / "replication-minima.md"

_HEAD = """\
# Unstable minima, foreseen

Written by `make evaluate-minima`, which trains {fitted} and {held} runs, judges them and lays out this page. Machine:
{machine}.

A CNN with batch norm on MNIST-5k (SGD, Adam), a character-level transformer on the King James Bible (AdamW) and a GRU
on the same text (SGD, Adam), healthy and with planted failures; no two runs share their weights or batches (but for
the dense ones below, which repeat some). Thresholds and score were fixed on runs with seeds below 100; all figures
are of seeds from 200 on, whose runs nobody had looked at before. A failure begins at a step drawn at random among the
64 between two looks.

(Seeds from 100 on were held out before. They had 84 of 84 slow failures flagged, a median of 105 steps ahead, 99 % of
the abrupt ones within 5 steps, and 0.89 false alarms in 10,000 steps; their figures no longer count, as five
detectors were changed since, for what these runs do not have: warm-ups by cosine, by epoch and by exponent, plateaus,
losses that stand still, batch norm that was frozen. Before that they had failures begin at seven fixed steps, one of
them five before a look, whose item comes a step later: so 89 % of the abrupt ones were found in time. The first
figures, of odd seeds below 100, were seen before two detectors were changed.)

The client looks at the intervals that it chooses for models with steps of 0.2 s and more: weights in 64 steps, a probe
pass in 1,024, the pulse at every step. Numbers of single steps wait for three others, as they do where a step takes a
quarter of a second or more; a flag counts from the step at which the item that raised it was in the spool. The way from
there takes a second or so (docs/bench-alert.md) and is not in these figures. "Departed" is what detect/departure.py
says. Flags are those of critical detectors.

Slow failures count where they ended in a departure, which is a loss that does not come back: recall is the share
flagged between onset and departure, lead the steps from flag to departure. *Seen* counts to the fifth loss in a row
that stands half a nat too high, whether it comes back or not. An abrupt failure is found if a flag comes within 5 steps
of the onset. What is flagged before the onset, or in a healthy run, is a false alarm; flags within 50 steps are one.
Brackets hold 95 % intervals, exact ones; runs are independent, steps of one run are not, so that the share of healthy
runs with an alarm says more than the alarms per step.
"""
_RAISED = """\
Nothing tells a rate that is raised on purpose from one that grows by mistake: of the healthy runs those whose rate is
raised far above all that they had are flagged by `untested_rate` where they are, and count as false alarms.
"""
_CAUSES = """\
## What there is to foresee

A rising learning rate announces itself: `untested_rate` sees it whatever it does. Other causes have to show in updates,
gradients, statistics or the loss.
"""
_TOOLS = """\
## Beside other detectors

All others see every step at once, without any interval, and have a threshold of their own for each of the three
networks, the lowest that keeps them to the false alarms that topowatch, with one threshold for all, has there on the
fitted half; "as usual" are those of their makers. *Excess* is what the mean of 5 losses stands above the median of the
200 before, in nats; with a glance at the learning rate it is a rule of two lines. ZClip sees gradients before they are
clipped, as it does where it clips them itself.
"""
_PACES = """\
## Where steps are short

Numbers wait for each other for a second. In a step of a quarter of a second these are four steps, in shorter ones more,
and what goes wrong at once is told as many steps later.
"""
_ABLATION = """\
## With and without topology

At the intervals that the client chooses, these runs have 10 to 30 looks at their weights, which is too few for loops of
a path to show: the topological detector (orbiting) finds what the table above says. So {dense} runs were trained again
with a look in every 8 steps, and loops are looked for at every fourth look among 64. The largest level that it reaches
in the median of them is {loops:.2f} (it fires at 1).
Slices of the loss, and with them `shallow_basin`, are taken on demand only and are not in these runs.
"""
_SCORE = """\
## The score

Moments of the held-out half by their `instability_score`, and the share of them that ended in a departure within 200
steps; in brackets, the interval over runs drawn anew, as moments of one run are alike.
"""


def page(found: dict[str, Any]) -> str:
    """Return the page of the figures."""
    runs = found["runs"]
    return "\n".join(
        [
            _HEAD.format(fitted=runs["fitted"], held=runs["held out"], machine=found["machine"]),
            "## By kind of failure\n",
            *_kinds(found["kinds"]),
            "",
            _RAISED,
            _CAUSES,
            *_leads(found["causes"] | found["networks"]),
            "",
            _TOOLS,
            *_tools(found["tools"]),
            "",
            "## Each detector alone\n",
            *_tools(found["detectors"]),
            "",
            _PACES,
            *_paces(found["paces"]),
            "",
            _ABLATION.format(dense=runs["dense"], loops=found["loops"]),
            *_tools(found["ablation"]),
            "",
            _SCORE,
            *_reliability(found["reliability"]),
            "",
        ]
    )


def main() -> int:
    """Write and print the page."""
    text = page(json.loads(RESULTS.read_text()))
    PAGE.write_text(text)
    print(text)
    return 0


def _kinds(kinds: dict[str, Any]) -> list[str]:
    head = ["failure", "what happens", "runs", "found in time", "median lead", "worst", "false alarms", "healthy steps"]
    rows = []
    for name, figures in kinds.items():
        alarms = [str(figures["false_alarms"]), f"{figures['healthy_steps']:,}"]
        if name in HEALTHY:
            rows.append([name, HEALTHY[name], _share(figures["alarmed"]) + " with an alarm", "", "", "", *alarms])
            continue
        slow = KINDS[name].onset == "slow"
        of = figures["slow"] + figures["undeparted"]
        rows.append(
            [
                f"{name} ({KINDS[name].onset})",
                KINDS[name].meaning,
                f"{figures['slow']} of {of} departed" if slow else str(figures["abrupt"]),
                _share(figures["recall"] if slow else figures["prompt"]),
                _number(figures["lead"][0]) if slow else "–",
                _number(figures["worst_lead"]) if slow else "–",
                *alarms,
            ]
        )
    return table(head, rows)


def _leads(groups: dict[str, Any]) -> list[str]:
    head = ["slow failures", "departed", "recall", "median lead", "worst", "seen: recall", "median lead", "worst"]
    rows = [[name, str(figures["slow"]), *_lead(figures), *_lead(figures, "seen_")] for name, figures in groups.items()]
    return table(head, rows)


def _tools(tools: dict[str, Any]) -> list[str]:
    head = [
        "", "slow: recall", "median lead", "worst", "seen: recall", "median lead", "abrupt: within 5",
        "false alarms per 10,000", "healthy runs with one",
    ]  # fmt: skip
    rows = [
        [
            name,
            *_lead(figures),
            *_lead(figures, "seen_")[:2],
            _share(figures["prompt"]),
            _between(figures["rate"], 2),
            _share(figures["alarmed"]),
        ]
        for name, figures in tools.items()
    ]
    return table(head, rows)


def _paces(paces: dict[str, Any]) -> list[str]:
    head = ["steps that wait for each other", "abrupt: within 5", "slow: recall", "median lead", "worst"]
    return table(head, [[str(steps), _share(each["prompt"]), *_lead(each)] for steps, each in paces.items()])


def _lead(figures: dict[str, Any], until: str = "") -> list[str]:
    """Cells of recall, median and worst lead, until the departure or what begins with another word."""
    recall, lead, worst = (figures[f"{until}{name}"] for name in ("recall", "lead", "worst_lead"))
    return [_share(recall), _between(lead, 0), _number(worst)]


def _reliability(bins: list[dict[str, Any]]) -> list[str]:
    head = ["mean score", "moments", "of runs", "departed within 200 steps"]
    rows = [
        [f"{each['score']:.2f}", f"{each['moments']:,}", str(each["runs"]), _share(each["departed"])] for each in bins
    ]
    return table(head, rows)


def _share(bounds: list[float | None]) -> str:
    value, lower, upper = bounds
    return "–" if value is None else f"{value:.0%} ({lower:.0%} to {upper:.0%})"


def _between(bounds: list[float | None], digits: int) -> str:
    value, lower, upper = bounds
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if lower is None else f"{value:.{digits}f} ({lower:.{digits}f} to {upper:.{digits}f})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


if __name__ == "__main__":
    sys.exit(main())
