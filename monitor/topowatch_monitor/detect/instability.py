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
    "untested_rate": 3.03,
    "update_growth": 0.44,
    "gradient_growth": 2.08,
    "norm_drift": 0.17,
    "violent_start": 0.0,
    "loss_jump": 0.0,
    "loss_rise": 0.62,
}
EVIDENCE = (0.0, 0.09, 0.22, 0.42, 0.63, 1.0, 2.25, 2.6, 3.53, 5.9, 6.88)
PROBABILITIES = (0.059, 0.126, 0.155, 0.16, 0.16, 0.273, 0.435, 0.524, 0.878, 0.918, 0.918)


def evidence(levels: Mapping[str, float]) -> float:
    """Return the weighted sum of levels, each at most 2."""
    return float(sum(weight * min(levels.get(name, 0.0), MOST) for name, weight in WEIGHTS.items() if weight))


def instability_score(levels: Mapping[str, float]) -> float:
    """Return the share of such moments that ended in a departure within 200 steps, 0 to 1; 1 without a finite loss."""
    if levels.get("non_finite_loss", 0.0) >= 1:
        return 1.0
    return float(np.interp(evidence(levels), EVIDENCE, PROBABILITIES))
