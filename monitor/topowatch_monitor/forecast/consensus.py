"""How far a run agrees with its finished siblings on probes that nobody has labelled.

Models that are trained alike and agree are mostly right, and how often two of them disagree on new data is close to how
often each errs there (Jiang et al., "Assessing generalization of SGD via disagreement", ICLR 2022). What the siblings
with the best results agree on is right more often than what all do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BEST = 0.25  # share of the siblings that are the best


class Agreement(NamedTuple):
    """Shares from 0 to 1; NaN without siblings.

    Attributes:
        with_most: of the probes on which the run predicts what most siblings do (the least class of equally many).
        mean: of the siblings that predict what the run does, averaged over the probes.
        where_sure: the same over the half of the probes on which the run is surest.
        with_best: as `with_most`, of the best siblings.
        mean_best: as `mean`, of the best siblings.
    """

    with_most: float
    mean: float
    where_sure: float
    with_best: float
    mean_best: float


NOTHING = Agreement(*(np.nan,) * len(Agreement._fields))


class Consensus:
    """What finished runs predict on their common probes.

    Args:
        predictions: m × n classes, one row a run, the run with the best result first.
        classes: how many there are; predictions lie below.

    Raises:
        ValueError: a prediction is no class.
    """

    def __init__(self, predictions: NDArray[np.integer[Any]], classes: int) -> None:
        if predictions.size and (predictions.min() < 0 or predictions.max() >= classes):
            raise ValueError(f"predictions lie from 0 to {classes - 1}")
        # The classes that anybody predicts are numbered probe by probe, so that 50,000 of them cost no more than ten.
        columns = [np.unique(column, return_inverse=True) for column in predictions.T]
        self._known = [known for known, _ in columns]
        self._numbers = np.array([numbers for _, numbers in columns], dtype=np.int64).reshape(predictions.T.shape)
        self._width = max((len(known) for known in self._known), default=0)
        self._votes = self._count(list(range(len(predictions))))

    def agreement(
        self, predicted: NDArray[np.integer[Any]], confidence: NDArray[np.floating[Any]], *, own: int | None = None
    ) -> Agreement:
        """Compare one run.

        Args:
            predicted: n classes.
            confidence: n probabilities of these.
            own: row of this run among the predictions, which is left out.
        """
        probes, runs = self._numbers.shape
        others = [row for row in range(runs) if row != own]
        if not others or len(predicted) != probes or len(confidence) != probes:
            return NOTHING
        numbers = self._numbers_of(predicted)
        votes = self._votes if own is None else self._votes - self._count([own])
        best = others[: max(1, round(BEST * len(others)))]
        with_most, alike = _compare(votes, len(others), numbers)
        with_best, alike_best = _compare(self._count(best), len(best), numbers)
        sure = np.argsort(-confidence.astype(np.float64), kind="stable")[: -(-probes // 2)]
        return Agreement(with_most, float(alike.mean()), float(alike[sure].mean()), with_best, float(alike_best.mean()))

    def _numbers_of(self, predicted: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """The number of each class on its probe; −1 of one that no sibling predicts there."""
        numbers = np.full(len(predicted), -1, dtype=np.int64)
        for probe, (known, what) in enumerate(zip(self._known, predicted, strict=True)):
            place = int(np.searchsorted(known, what))
            if place < len(known) and known[place] == what:
                numbers[probe] = place
        return numbers

    def _count(self, rows: Sequence[int]) -> NDArray[np.int64]:
        """Votes of some rows, n × the most classes that are predicted on one probe."""
        votes = np.zeros((len(self._numbers), self._width), dtype=np.int64)
        places = np.repeat(np.arange(len(votes)), len(rows))
        np.add.at(votes, (places, self._numbers[:, list(rows)].ravel()), 1)
        return votes


def _compare(votes: NDArray[np.int64], voters: int, numbers: NDArray[np.int64]) -> tuple[float, NDArray[np.float64]]:
    """Share of the probes with what most say, and of the voters that say the same on each."""
    known = numbers >= 0
    alike = np.where(known, votes[np.arange(len(votes)), np.where(known, numbers, 0)], 0) / voters
    return float((numbers == votes.argmax(axis=1)).mean()), alike
