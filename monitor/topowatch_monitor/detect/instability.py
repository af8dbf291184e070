"""How likely a run is to leave its minimum soon: one number from how far all detectors have gone.

A logistic regression on the levels, made honest by isotonic regression (Zadrozny & Elkan, KDD 2002). It was fitted on
one half of the evaluation suite (`make fit-minima` prints the numbers below) and is judged on the other
(docs/replication-minima.md): of the moments with a score of 0.8, about 80 % ended in a departure, as departure.py
defines it, within 200 steps. What the suite is made of decides what that is worth elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

HORIZON = 200  # steps
MOST = 2.0  # times its alarm: beyond, a level says no more
# Those at 0 say nothing that the others do not: most jumps and violent starts of the suite are no departures.
WEIGHTS = {
    "untested_rate": 3.02,
    "update_growth": 0.53,
    "gradient_growth": 2.14,
    "norm_drift": 0.0,
    "violent_start": 0.0,
    "loss_jump": 0.0,
    "loss_rise": 0.72,
}
EVIDENCE = (0.0, 0.1, 0.23, 0.47, 0.72, 1.09, 2.35, 2.59, 3.69, 5.94, 6.99)
PROBABILITIES = (0.06, 0.129, 0.151, 0.151, 0.151, 0.287, 0.391, 0.57, 0.891, 0.919, 0.919)


def evidence(levels: Mapping[str, float]) -> float:
    """Return the weighted sum of levels, each at most 2."""
    return float(sum(weight * min(levels.get(name, 0.0), MOST) for name, weight in WEIGHTS.items()))


def instability_score(levels: Mapping[str, float]) -> float:
    """Return the share of such moments that ended in a departure within 200 steps, 0 to 1; 1 without a finite loss."""
    if levels.get("non_finite_loss", 0.0) >= 1:
        return 1.0
    return float(np.interp(evidence(levels), EVIDENCE, PROBABILITIES))
