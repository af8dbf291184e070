"""Leaves out looks at what seems not to have changed."""

from __future__ import annotations


class Glances:
    """Says whether a look is needed, from something cheap that changes with what would be seen.

    Args:
        most: Looks left out in a row: times of files are too coarse to show all.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._last: object = None
        self._skipped = 0

    def needed(self, like: object) -> bool:
        """Take in what it is like now (None: not known); True unless it was so at the last look, not long ago."""
        if like is not None and like == self._last and self._skipped < self._most:
            self._skipped += 1
            return False
        self._last, self._skipped = like, 0
        return True

    def forget(self) -> None:
        """The next look is needed in any case."""
        self._last = None
