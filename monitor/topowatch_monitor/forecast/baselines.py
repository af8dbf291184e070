"""What forecasts have to beat, by the features that each leaves out; those of the curve are in `forecast.curve`."""

from __future__ import annotations

from topowatch_monitor.forecast.table import FEATURES, NAMES

LOSS_ONLY = frozenset(feature.name for feature in FEATURES if feature.family != "loss")
NORM_AND_LENGTH = frozenset(NAMES) - {"weight_norm", "path_length"}
