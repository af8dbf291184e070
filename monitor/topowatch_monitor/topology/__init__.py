"""Pure mathematics of paths: spanning trees, persistence, path classes. No gRPC, Ray, files or clocks."""

from topowatch_monitor.topology.atlas import Atlas
from topowatch_monitor.topology.limits import TooLargeError
from topowatch_monitor.topology.mst import IncrementalMST
from topowatch_monitor.topology.path_classes import PathClasses, classify_paths, outliers
from topowatch_monitor.topology.persistence import (
    h1_diagram,
    maxmin_landmarks,
    sublevel_persistence,
    total_persistence,
)
from topowatch_monitor.topology.tracker import PathTracker

__all__ = [
    "Atlas",
    "IncrementalMST",
    "PathClasses",
    "PathTracker",
    "TooLargeError",
    "classify_paths",
    "h1_diagram",
    "maxmin_landmarks",
    "outliers",
    "sublevel_persistence",
    "total_persistence",
]
