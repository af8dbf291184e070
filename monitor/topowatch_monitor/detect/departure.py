"""When a run left its minimum: the one definition, after the fact, that flags and scores are judged by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEIGHT = 0.5  # nats above the level
SMOOTH = 5  # steps: the loss counts as a mean over so many
LEVEL = 200  # steps whose median is the level
RETURN = 200  # steps within which a loss that comes back has not departed
SETTLED = 20  # steps over which it has to be back in the mean: a dip while it oscillates is no return


def departure(losses: NDArray[np.float64]) -> int | None:
    """Return the first step from which the loss is lost; None for a run that stays or comes back.

    That is the first at which the mean of the last 5 losses stands 0.5 nat above the median of the 200 before them
    (of all, where there are fewer) and no mean of 20 within the next 200 steps comes back to that, or at which the loss
    is not finite. Where the record ends earlier, what is there decides.

    Args:
        losses: training loss at every step in nats, T.
    """
    finite = np.isfinite(losses)
    lost = len(losses) if finite.all() else int(np.argmin(finite))
    known = losses[:lost].astype(np.float64)
    if not lost:
        return 0 if len(losses) else None
    smoothed, settled = _means(known, SMOOTH), _means(known, SETTLED)
    for step in range(1, len(known)):
        before = known[max(0, step - SMOOTH + 1 - LEVEL) : max(1, step - SMOOTH + 1)]
        bar = float(np.median(before)) + HEIGHT
        after = settled[step + SETTLED : step + RETURN + 1]
        if smoothed[step] > bar and not (after <= bar).any():
            return step
    return lost if lost < len(losses) else None


def standing(losses: NDArray[np.float64], start: int = 0) -> int | None:
    """Return the first step from `start` on that is the fifth in a row whose loss stands 0.5 nat too high; else None.

    Too high is above the median of the 200 steps before these five. It may come back: this is when anybody sees it.

    Args:
        losses: training loss at every step in nats, T; one that is not finite is too high.
        start: first step that may be the fifth.
    """
    for step in range(max(start, SMOOTH), len(losses)):
        first = step - SMOOTH + 1
        before = losses[max(0, first - LEVEL) : first]
        before = before[np.isfinite(before)]
        if len(before) and not (losses[first : step + 1] <= np.median(before) + HEIGHT).any():
            return step
    return None


def _means(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return the mean of the last `width` values (of all, where there are fewer), at every place.

    Each from its own values: sums that run on would never lose what one huge loss has left in them.
    """
    padded = np.concatenate([np.zeros(width - 1), values])
    sums = np.lib.stride_tricks.sliding_window_view(padded, width).sum(axis=1)
    means: NDArray[np.float64] = sums / np.minimum(np.arange(1, len(values) + 1), width)
    return means
