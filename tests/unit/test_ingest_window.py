"""The window of taken sequence numbers against its slow twin, a plain set."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from topowatch_monitor.ingest.window import SeqWindow

ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8)).map(lambda pair: (pair[0], sum(pair))), max_size=30)


@given(st.integers(0, 20), ranges)
def test_the_window_agrees_with_a_set(start: int, taken: list[tuple[int, int]]) -> None:
    window = SeqWindow(start)
    twin = set(range(start))
    for first, last in taken:
        new = set(range(first, last + 1)) - twin
        assert window.take(first, last) == len(new)
        twin |= new
        assert [seq for seq in range(80) if seq in window] == sorted(twin)
        assert window.next_seq == max(twin, default=-1) + 1
        edges = [edge for gap in window.missing for edge in gap]
        assert edges == sorted(edges)
        assert all(right[0] - left[1] > 1 for left, right in zip(window.missing, window.missing[1:], strict=False))
        assert sum(last - first + 1 for first, last in window.missing) == window.next_seq - len(twin)
        for stop in range(window.next_seq + 1):
            below = [seq for first, last in window.taken(stop) for seq in range(first, last + 1)]
            assert below == [seq for seq in sorted(twin) if seq < stop]


def test_huge_ranges_cost_nothing() -> None:
    window = SeqWindow(0)
    assert window.take(1 << 62, (1 << 63) - 1) == 1 << 62
    assert window.missing == [(0, (1 << 62) - 1)]
    assert 1 << 61 not in window
    assert window.take(0, (1 << 63) - 1) == 1 << 62
    assert window.missing == []
