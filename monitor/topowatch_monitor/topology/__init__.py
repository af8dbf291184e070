"""Pure mathematics of paths: spanning trees, persistence, landmarks. No gRPC, Ray, files or clocks."""

from topowatch_monitor.topology.mst import IncrementalMST
from topowatch_monitor.topology.persistence import (
    h1_diagram,
    maxmin_landmarks,
    sublevel_persistence,
    total_persistence,
)

__all__ = ["IncrementalMST", "h1_diagram", "maxmin_landmarks", "sublevel_persistence", "total_persistence"]
