"""How likely a run is to leave its minimum soon: one number from how far all detectors have gone.

A logistic regression on the levels, made honest by isotonic regression (Zadrozny & Elkan, KDD 2002). It was fitted on
one part of the evaluation suite (`make fit-minima` prints the numbers below) and is judged on the other: a score is the
share of such moments that ended in a departure, as departure.py defines it, within 200 steps. How well that held there
is in docs/replication-minima.md; what the suite is made of decides what it is worth elsewhere.
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
    "untested_rate": 1.45,
    "update_growth": 3.74,
    "gradient_growth": 0.0,
    "norm_drift": 0.79,
    "violent_start": 0.0,
    "loss_jump": 0.46,
    "loss_rise": 0.76,
}
EVIDENCE = (0.01, 0.06, 0.08, 0.41, 0.89, 1.22, 1.24, 1.52, 2.57, 3.13, 5.71)
PROBABILITIES = (0.069, 0.08, 0.094, 0.205, 0.205, 0.205, 0.205, 0.53, 0.532, 0.757, 0.795)


def evidence(levels: Mapping[str, float]) -> float:
    """Return the weighted sum of levels, each at most 2."""
    return float(sum(weight * min(levels.get(name, 0.0), MOST) for name, weight in WEIGHTS.items() if weight))


def instability_score(levels: Mapping[str, float]) -> float:
    """Return the share of such moments that ended in a departure within 200 steps, 0 to 1; 1 without a finite loss."""
    if levels.get("non_finite_loss", 0.0) >= 1:
        return 1.0
    return float(np.interp(evidence(levels), EVIDENCE, PROBABILITIES))
