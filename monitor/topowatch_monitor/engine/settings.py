"""What an engine is told, wherever it runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class HostSettings:
    """What the engine needs to know, wherever it runs; travels to the host as JSON on its command line."""

    data_dir: str
    shards: int
    most_shards: int
    ray_address: str | None
    snapshot_seconds: float
    path_window: int
    h1_every: int
    h1_landmarks: int
    history_window: int
    atlas_seconds: float
    homology_timeout_seconds: float
    thresholds: Mapping[str, Mapping[str, float]]  # by detector and name
    log_format: str = "text"

    def to_json(self) -> str:
        """Encode for the command line."""
        return json.dumps(asdict(self))
