"""Superseded samples: the last ones of a resumed job are none of anybody's business, a job that goes on is."""

from __future__ import annotations

import pytest

from topowatch_monitor.detect.superseded_samples import Streak, SupersededSamplesThresholds, detect

LIMITS = SupersededSamplesThresholds()


@pytest.mark.parametrize(
    ("samples", "first_at", "last_at", "fires"),
    [
        (8, 100.0, 130.0, True),
        (7, 100.0, 900.0, False),
        (8, 100.0, 129.0, False),
        (5000, 100.0, 110.0, False),  # a spool that is sent late
        (8, None, 130.0, False),
        (8, 100.0, None, False),
        (8, 900.0, 130.0, False),  # the daemon's clock went back
    ],
)
def test_they_count_once_they_are_many_and_arrive_over_some_time(samples, first_at, last_at, fires):
    reason = detect(Streak(1_000, 61_000, samples, 40, first_at, last_at), LIMITS)
    assert (reason is not None) is fires
    if reason is not None:
        assert f"{samples} samples from step 40 on" in reason
        assert "incarnation 61000 covers their steps and is 60 s newer than theirs, 1000" in reason
