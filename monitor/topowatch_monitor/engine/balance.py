"""Who carries which virtual shard: as many each, and as few moved as that takes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def balanced(owners: Sequence[int | None], carriers: Sequence[int]) -> list[int]:
    """Say who should carry each virtual shard.

    Args:
        owners: who carries it now; None, or one that is not among `carriers`, if it is to be given to somebody.
        carriers: those that there are, at least one.

    Returns:
        The carrier of each. How many two of them have differs by one at most, and no other such answer moves fewer.
    """
    held = Counter(owner for owner in owners if owner in carriers)
    least, more = divmod(len(owners), len(carriers))
    # Those that have most already are the ones that keep one more.
    order = sorted(carriers, key=lambda carrier: -held[carrier])
    room = {carrier: least + (place < more) for place, carrier in enumerate(order)}
    found: list[int | None] = []
    for owner in owners:
        stays = owner is not None and room.get(owner, 0) > 0
        if owner is not None and stays:
            room[owner] -= 1
        found.append(owner if stays else None)
    free = (carrier for carrier in carriers for _ in range(room[carrier]))
    return [next(free) if owner is None else owner for owner in found]
