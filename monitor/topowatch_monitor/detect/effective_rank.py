"""How many dimensions features really use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def effective_rank(features: NDArray[np.floating[Any]]) -> float:
    """Effective rank of centred features: the exponential of the entropy of their normalised singular values.

    Source: O. Roy and M. Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.

    Args:
        features: n × d finite numbers, one row a position.

    Returns:
        From 1 to min(n - 1, d); 0 where all rows are the same.
    """
    if not features.size:
        return 0.0
    wide = features.astype(np.float64)
    scale = float(np.abs(wide).max())
    if scale == 0:
        return 0.0
    centred = wide / scale
    centred -= centred.mean(axis=0)
    values = np.linalg.svd(centred, compute_uv=False)
    if values[0] <= 1e-12 * max(features.shape):  # what rounding leaves of rows that are the same
        return 0.0
    share = values / values.sum()
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))
