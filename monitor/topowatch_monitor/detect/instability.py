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
    "update_growth": 3.45,
    "gradient_growth": 0.0,
    "norm_drift": 1.22,
    "violent_start": 0.0,
    "loss_jump": 0.21,
    "loss_rise": 0.32,
}
EVIDENCE = (0.0, 0.14, 0.32, 0.47, 1.02, 1.82, 2.54, 2.91, 3.07, 3.84, 6.24)
PROBABILITIES = (0.073, 0.159, 0.159, 0.398, 0.557, 0.557, 0.557, 0.557, 0.791, 0.8, 0.8)


def evidence(levels: Mapping[str, float]) -> float:
    """Return the weighted sum of levels, each at most 2."""
    return float(sum(weight * min(levels.get(name, 0.0), MOST) for name, weight in WEIGHTS.items() if weight))


def instability_score(levels: Mapping[str, float]) -> float:
    """Return the share of such moments that ended in a departure within 200 steps, 0 to 1; 1 without a finite loss."""
    if levels.get("non_finite_loss", 0.0) >= 1:
        return 1.0
    return float(np.interp(evidence(levels), EVIDENCE, PROBABILITIES))
