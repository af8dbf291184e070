"""What ingest tells a job beside its acks."""

from __future__ import annotations

from topowatch_monitor.ingest.wishes import LASTS_SECONDS, Wishes

KEY = ("t", "g", "r")


def test_a_wish_is_told_to_its_run_until_it_lapses() -> None:
    now = [0.0]
    wishes = Wishes(lambda: now[0])
    asked = wishes.ask(KEY, 17)
    assert [(each.id, each.side) for each in wishes.of(KEY)] == [(asked, 17)]
    assert wishes.of(("other", "g", "r")) == []
    now[0] = LASTS_SECONDS
    assert wishes.of(KEY) == []
    assert wishes.ask(KEY, 17) != asked


def test_who_asks_again_waits_for_the_same_slice_until_it_is_there() -> None:
    wishes = Wishes(lambda: 0.0)
    first = wishes.ask(KEY, 17)
    assert wishes.ask(KEY, 9, answered="another") == first
    second = wishes.ask(KEY, 9, answered=first)
    assert second != first
    assert [(each.id, each.side) for each in wishes.of(KEY)] == [(second, 9)]
