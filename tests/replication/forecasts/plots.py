"""Forecasts against results as a plot: one panel a group, a quarter of the steps and the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

from replication.forecasts.holding_out import FORECAST
from topowatch_monitor.engine.finished import LEVELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replication.forecasts.judging import Group

FILE = Path(__file__).parents[3] / "docs" / "replication-forecasts.svg"
_SHOWN = {LEVELS // 4: ("a quarter of the steps", "#d9822b"), LEVELS: ("the end", "#1f6f8b")}


def draw(groups: Sequence[Group]) -> None:
    """Draw every group's runs: what was forecast of each while it was held out, against what it ended with."""
    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "topowatch"  # so that the same data give the same file
    from matplotlib import pyplot as plt

    columns = min(3, len(groups))
    figure, axes = plt.subplots(
        -(-len(groups) // columns), columns, figsize=(9, 3 * -(-len(groups) // columns)), squeeze=False
    )
    for axis, group in zip(axes.flat, groups, strict=False):
        true = group.results["accuracy"]
        ends = [true.min(), true.max()]
        axis.plot(ends, ends, color="#999999", linewidth=0.8)
        for level, (label, colour) in _SHOWN.items():
            said = group.said["accuracy"][level]
            told = ~said.abstained
            values = said.values[FORECAST][told]
            reach = np.abs(np.stack([values - said.lower[told], said.upper[told] - values]))
            axis.errorbar(true[told], values, reach, fmt="o", markersize=2.5, linewidth=0.4, color=colour, label=label)
        axis.set_title(group.name, fontsize=9)
        axis.tick_params(labelsize=7)
    figure.supxlabel("test accuracy at the end", fontsize=9)
    figure.supylabel("forecast, with its 90 % interval", fontsize=9)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", fontsize=8)
    figure.tight_layout()
    figure.savefig(FILE, metadata={"Date": None})
    plt.close(figure)
