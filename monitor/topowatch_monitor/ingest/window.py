"""Which sequence numbers of a writer have been taken: a high-watermark and the gaps below it."""

from __future__ import annotations

from bisect import bisect_left
from operator import itemgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_LAST = itemgetter(1)


class SeqWindow:
    """Every seq below `next_seq` has been taken, except those in `missing`.

    Args:
        next_seq: the first seq that was never seen.
        missing: (first, last) ranges below it, ascending, apart from each other; both ends belong to them.
    """

    __slots__ = ("missing", "next_seq")

    def __init__(self, next_seq: int, missing: Iterable[tuple[int, int]] = ()) -> None:
        self.next_seq = next_seq
        self.missing = list(missing)

    def __contains__(self, seq: int) -> bool:
        """Whether `seq` has been taken."""
        if seq >= self.next_seq:
            return False
        index = bisect_left(self.missing, seq, key=_LAST)
        return index == len(self.missing) or seq < self.missing[index][0]

    def take(self, first: int, last: int) -> int:
        """Take the range first..last; return how many of it are new. What is jumped over becomes missing."""
        new = self._fill(first, last) if self.missing and first <= self.missing[-1][1] else 0
        if last >= self.next_seq:
            start = max(first, self.next_seq)
            if first > self.next_seq:
                self.missing.append((self.next_seq, first - 1))
            new += last - start + 1
            self.next_seq = last + 1
        return new

    def taken(self, stop: int) -> list[tuple[int, int]]:
        """Return the ranges below `stop`, at most `next_seq`, that have been taken; both ends belong to them."""
        ranges = []
        start = 0
        for first, last in (*self.missing, (stop, stop)):
            end = min(first, stop) - 1
            if start <= end:
                ranges.append((start, end))
            start = last + 1
        return ranges

    def _fill(self, first: int, last: int) -> int:
        """Take what of first..last is missing; return how many."""
        low = bisect_left(self.missing, first, key=_LAST)
        high = low
        kept: list[tuple[int, int]] = []
        new = 0
        while high < len(self.missing) and self.missing[high][0] <= last:
            begin, end = self.missing[high]
            new += min(end, last) - max(begin, first) + 1
            kept += [(a, b) for a, b in ((begin, first - 1), (last + 1, end)) if a <= b]
            high += 1
        self.missing[low:high] = kept
        return new
