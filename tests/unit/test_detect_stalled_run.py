"""The one detector that depends on the clock."""

from __future__ import annotations

import pytest

from topowatch_monitor.detect.stalled_run import StalledRunThresholds, detect, is_lost

LIMITS = StalledRunThresholds()


@pytest.mark.parametrize(
    ("silence", "pause", "stalled", "lost"),
    [
        (119.0, 1.0, False, False),
        (121.0, 1.0, True, False),
        (121.0, None, True, False),
        (901.0, 1.0, True, True),
        (400.0, 200.0, False, False),  # evaluates for minutes, now and then
        (601.0, 200.0, True, False),
        (901.0, 400.0, False, False),
        (-5.0, 1.0, False, False),  # clocks disagree
    ],
)
def test_silence_counts_beside_the_pauses_that_the_run_makes(silence, pause, stalled, lost):
    reason = detect(silence, pause, LIMITS)
    assert (reason is not None) is stalled
    assert is_lost(silence, pause, LIMITS) is lost
    if reason is not None:
        assert f"no sample for {silence:.0f} s" in reason
