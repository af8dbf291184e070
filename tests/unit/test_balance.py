"""How virtual shards are shared out: evenly, and with no move that is not needed."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from topowatch_monitor.engine.balance import balanced

CARRIERS = st.lists(st.integers(0, 20), min_size=1, max_size=8, unique=True)
OWNERS = st.lists(st.integers(-1, 20), max_size=256)


@given(owners=OWNERS, carriers=CARRIERS)
def test_every_shard_has_a_carrier_and_the_sizes_differ_by_one_at_most(owners: list[int], carriers: list[int]) -> None:
    found = balanced(owners, carriers)
    assert len(found) == len(owners)
    assert set(found) <= set(carriers)
    sizes = [Counter(found)[carrier] for carrier in carriers]
    assert max(sizes) - min(sizes) <= 1


@given(owners=OWNERS, carriers=CARRIERS)
def test_no_other_fair_share_moves_fewer(owners: list[int], carriers: list[int]) -> None:
    """Those with most keep one more where it does not come out even; all else above a fair share has to go."""
    moved = sum(before != after for before, after in zip(owners, balanced(owners, carriers), strict=True))
    least, more = divmod(len(owners), len(carriers))
    held = sorted((owners.count(carrier) for carrier in carriers), reverse=True)
    kept = sum(min(count, least + (place < more)) for place, count in enumerate(held))
    assert moved == len(owners) - kept


@given(owners=OWNERS, carriers=CARRIERS)
def test_what_is_balanced_stays_as_it_is(owners: list[int], carriers: list[int]) -> None:
    once = balanced(owners, carriers)
    assert balanced(once, carriers) == once
