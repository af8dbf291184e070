"""The figures as a page of tables: `PYTHONPATH=tests python -m replication.minima.page` writes and prints it anew."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.tabular import table
from replication.minima.failures import KINDS

RESULTS = Path(__file__).parents[1] / "results" / "minima.json"
PAGE = Path(__file__).parents[3] / "docs" / "replication-minima.md"

_HEAD = """\
# Unstable minima, foreseen

Written by `make evaluate-minima`, which trains {fitted} and {held} runs, judges them and lays out this page. Machine:
{machine}.

A CNN with batch norm on MNIST-5k (SGD, Adam), a character-level transformer on the King James Bible (AdamW) and a GRU
on the same text (SGD, Adam), healthy and with planted failures. Seeds 0, 2, 4 … were there to fix thresholds and score
on; all figures are of the other half. The client runs as it does in production, at the intervals that it chooses for
models with steps of 0.2 s and more (a look in 64 steps, a probe pass in 1,024, the pulse at every step, numbers sent
after every fourth); a flag counts from the step at which the item that raised it was in the spool. "Departed" is what
detect/departure.py says. Flags are those of critical detectors.

Slow failures count where they ended in a departure: recall is the share flagged between onset and departure, lead the
steps from flag to departure. An abrupt failure is found if a flag comes within 5 steps of the onset. What is flagged
before the onset, or in a healthy run, is a false alarm; flags within 50 steps are one. Brackets hold 95 % intervals.
"""
_TOOLS = """\
## Beside other detectors

All others see every step at once, without any interval, and have a threshold of their own for each of the three
networks, the lowest that keeps them to the false alarms that topowatch, with one threshold for all, has there on the
fitted half; "as usual" are those of their makers. The probe loss at every step would cost more than the training. The
topological detector of the path (orbiting) says nothing here: a window of samples, one in 64 steps, is too slow to
lead, and none of these runs goes round in loops.
"""
_SCORE = """\
## The score

Moments of the held-out half by their `instability_score`, and the share of them that ended in a departure within 200
steps.
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
            _TOOLS,
            *_tools(found["tools"]),
            "",
            "## Each detector alone\n",
            *_tools(found["detectors"]),
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
    head = ["failure", "what happens", "runs", "found in time", "median lead", "worst", "false alarms before"]
    rows = []
    for name, figures in kinds.items():
        if name == "healthy":
            continue
        kind = KINDS[name]
        slow = kind.onset == "slow"
        count = (
            f"{figures['slow']} of {figures['slow'] + figures['undeparted']} departed"
            if slow
            else str(figures["abrupt"])
        )
        found = figures["recall"] if slow else figures["prompt"]
        rows.append(
            [
                f"{name} ({kind.onset})",
                kind.meaning,
                count,
                _share(found),
                _number(figures["lead"][0]) if slow else "–",
                _number(figures["worst_lead"]) if slow else "–",
                f"{figures['false_alarms']} in {figures['healthy_steps']:,} steps",
            ]
        )
    healthy = kinds["healthy"]
    rows.append(
        [
            "healthy",
            "warm-up, decay, restarts",
            "",
            "",
            "",
            "",
            f"{healthy['false_alarms']} in {healthy['healthy_steps']:,} steps",
        ]
    )
    return table(head, rows)


def _tools(tools: dict[str, Any]) -> list[str]:
    head = ["", "slow: recall", "median lead", "worst", "abrupt: within 5", "false alarms per 10,000", "precision"]
    rows = []
    for name, figures in tools.items():
        rows.append(
            [
                name,
                _share(figures["recall"]),
                _between(figures["lead"], 0),
                _number(figures["worst_lead"]),
                _share(figures["prompt"]),
                _between(figures["rate"], 2),
                _share(figures["precision"]),
            ]
        )
    return table(head, rows)


def _reliability(bins: list[dict[str, float]]) -> list[str]:
    head = ["mean score", "moments", "departed within 200 steps"]
    return table(head, [[f"{each['score']:.2f}", f"{each['moments']:,}", f"{each['departed']:.0%}"] for each in bins])


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
