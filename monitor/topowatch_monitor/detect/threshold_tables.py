"""Thresholds as plain tables, in which they travel: as TOML, as JSON, in snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from topowatch_monitor.detect.catalogue import Thresholds

if TYPE_CHECKING:
    from collections.abc import Mapping


def thresholds_from(tables: Mapping[str, Mapping[str, float]]) -> Thresholds:
    """Make thresholds of values by detector and name, as `dataclasses.asdict` gives them; what is absent is default.

    Raises:
        AttributeError: there is no such detector, or it has no thresholds.
        TypeError: it has no such threshold.
    """
    default = Thresholds()
    return Thresholds(**{name: type(getattr(default, name))(**table) for name, table in tables.items()})
