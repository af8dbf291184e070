"""Entropy of attention: how evenly the rows of attention weights spread over the positions that they may look at."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ROWS = 1 << 10  # of one tensor: they differ by some 0.3, the mean of so many by 0.01
_ELEMENTS = 1 << 16  # of one tensor: a quarter of a megabyte; long rows are fewer
_LEAST = torch.finfo(torch.float32).tiny  # 0 times its logarithm is 0
_SLACK = 0.01  # of a row's sum: five times what bfloat16 rounds off


def entropy_shown(results: Iterable[torch.Tensor]) -> torch.Tensor | None:
    """Return the entropy of the first of some tensors that is attention weights; nothing waits for the device.

    Args:
        results: What a module returned beside its output.

    Returns:
        float32 scalar on their device, see `entropy`; NaN if none is attention. None if none can be.
    """
    found: torch.Tensor | None = None
    for result in results:
        local = result.to_local() if hasattr(result, "to_local") else result
        if _may_be_attention(local):
            rows, queries = _rows(local.detach())
            here = entropy(rows, visible(rows, queries, local.shape[-2]))
            found = here if found is None else torch.where(found.isnan(), here, found)
    # A copy into a tensor of our own fails within torch.func, whose tensors mean nothing outside of it.
    return None if found is None else torch.empty((), dtype=torch.float32, device=found.device).copy_(found)


def entropy(rows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Mean entropy of rows of attention over the logarithm of their length (Zhai et al. 2023, arXiv 2303.06296).

    Rows of length 1 are left out, and so are those that are masked as a whole (all zero, or NaN).

    Args:
        rows: float32 (rows × positions).
        lengths: int64 (rows), how many positions each may look at; see `visible`.

    Returns:
        Scalar from 0, all on one position, to 1, uniform. NaN where these are no rows of attention (non-negative, sum
        1), or none is left.
    """
    total, least = rows.sum(1), rows.amin(1)
    masked = total.isnan() | ((total == 0) & (least == 0))
    sound = (least >= 0) & ((total - 1).abs() < _SLACK)
    counted = sound & (lengths > 1)
    logarithms = rows.clamp(min=_LEAST).log()  # several times as fast as torch.special.entr
    shares = -(rows * logarithms).sum(1) / lengths.clamp(min=2).log()
    mean = torch.where(counted, shares, 0.0).sum() / counted.sum()
    return torch.where((sound | masked).all(), mean.clamp(0.0, 1.0), math.nan)


def visible(rows: torch.Tensor, queries: torch.Tensor, count: int) -> torch.Tensor:
    """How many positions rows of attention may look at: all, or under a causal mask those up to their own.

    The mask is causal if no row has weight after its own position. Zeros are not counted: sharp rows have them where
    nothing is masked. So padding and windows make rows look longer than they are, which the logarithm makes little of.

    Args:
        rows: (rows × positions).
        queries: int64 (rows), the place of each among the queries, of which the last belongs to the last position.
        count: of all queries.

    Returns:
        int64 (rows).
    """
    positions = rows.shape[1]
    own = queries + positions - count
    ahead = torch.arange(positions, device=rows.device) > own.unsqueeze(1)
    causal = ~(torch.where(ahead, rows, 0.0) > 0).any()
    return torch.where(causal, own + 1, positions) if count <= positions else torch.full_like(own, positions)


def even_stride(count: int, wanted: int, sizes: Sequence[int]) -> int:
    """Return the stride that takes at most `wanted` of `count` elements and shares no factor with the shape's sizes."""
    stride = -(-count // wanted)
    while stride > 1 and any(math.gcd(stride, size) > 1 for size in sizes):
        stride += 1
    return stride


def _may_be_attention(result: torch.Tensor) -> bool:
    return (
        not result.is_nested
        and result.layout is torch.strided
        and result.dim() in {3, 4}
        and result.is_floating_point()
        and result.device.type != "meta"
        and result.shape[-1] > 1
        and result.numel() > 0
    )


def _rows(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Copy at most 2^10 rows, evenly strided over all dimensions but the last, and tell which query each is of."""
    *sizes, length = weights.shape
    count = math.prod(sizes)
    stride = even_stride(count, max(1, min(_ROWS, _ELEMENTS // length)), sizes)
    place = torch.arange(0, count, stride, device=weights.device)
    places: list[torch.Tensor] = []
    for size in reversed(sizes):
        places.insert(0, place % size)
        place = place // size
    return weights[tuple(places)].float(), places[-1]
