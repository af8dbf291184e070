"""How far a run agrees with its finished siblings on probes that nobody has labelled.

Models that are trained alike and agree are mostly right, and how often two of them disagree on new data is close to how
often each errs there (Jiang et al., "Assessing generalization of SGD via disagreement", ICLR 2022).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Agreement(NamedTuple):
    """Shares from 0 to 1; NaN without siblings.

    Attributes:
        with_most: of the probes on which the run predicts what most siblings do (the least class of equally many).
        mean: of the siblings that predict what the run does, averaged over the probes.
        where_sure: the same over the half of the probes on which the run is surest.
    """

    with_most: float
    mean: float
    where_sure: float


class Consensus:
    """What finished runs predict on their common probes.

    Args:
        predictions: m × n classes, one row a run.
        classes: how many there are; predictions lie below.

    Raises:
        ValueError: a prediction is no class.
    """

    def __init__(self, predictions: NDArray[np.integer[Any]], classes: int) -> None:
        if predictions.size and (predictions.min() < 0 or predictions.max() >= classes):
            raise ValueError(f"predictions lie from 0 to {classes - 1}")
        count, probes = predictions.shape
        self._runs = count
        self._votes = np.zeros((probes, classes), dtype=np.int64)
        for row in predictions:
            self._votes[np.arange(probes), row] += 1

    def agreement(
        self,
        predicted: NDArray[np.integer[Any]],
        confidence: NDArray[np.floating[Any]],
        *,
        own: NDArray[np.integer[Any]] | None = None,
    ) -> Agreement:
        """Compare one run.

        Args:
            predicted: n classes.
            confidence: n probabilities of these.
            own: what this run itself has contributed to the consensus, which is left out.
        """
        votes, runs = self._votes, self._runs
        places = np.arange(len(votes))
        if own is not None:
            votes, runs = votes.copy(), runs - 1
            votes[places, own] -= 1
        known = (predicted >= 0) & (predicted < votes.shape[1])
        if runs < 1 or len(predicted) != len(votes):
            return Agreement(np.nan, np.nan, np.nan)
        alike = np.where(known, votes[places, np.where(known, predicted, 0)], 0) / runs
        sure = np.argsort(-confidence.astype(np.float64), kind="stable")[: -(-len(places) // 2)]
        return Agreement(
            float((predicted == votes.argmax(axis=1)).mean()), float(alike.mean()), float(alike[sure].mean())
        )
