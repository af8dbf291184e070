"""Detectors: pure functions of a run's recent history that say what is going wrong, and since when it is not."""

from topowatch_monitor.detect.catalogue import (
    ANALYSIS_FAILED,
    DETECTORS,
    MISSING_RANK,
    STALLED_RUN,
    SUPERSEDED_SAMPLES,
    Detector,
    Thresholds,
    detect_all,
)
from topowatch_monitor.detect.history import History

__all__ = [
    "ANALYSIS_FAILED",
    "DETECTORS",
    "MISSING_RANK",
    "STALLED_RUN",
    "SUPERSEDED_SAMPLES",
    "Detector",
    "History",
    "Thresholds",
    "detect_all",
]
