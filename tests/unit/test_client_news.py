"""When numbers of single steps travel by themselves."""

from __future__ import annotations

import pytest
from torch import nn

from topowatch_client import news
from topowatch_client.governor import Budget, Governor


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    monkeypatch.setattr(news, "time", one)
    return one


def test_a_loss_waits_for_others_but_not_for_long(clock: Clock):
    waiting = news.News(nn.Linear(2, 2), [], Governor(Budget()), prompt=False)
    clock.now += 2.0
    waiting.scalars.add(7, {"loss": float("nan")})
    assert not waiting.due()
    clock.now += 3.0
    assert waiting.due()
    assert [one.name for one in waiting.take().scalars.series([])] == ["loss"]
    waiting.scalars.add(8, {"loss": 0.5})
    assert not waiting.due()


def test_where_nothing_waits_nothing_travels(clock: Clock):
    waiting = news.News(nn.Linear(2, 2), [], Governor(Budget()), prompt=True)
    clock.now += 1000.0
    assert not waiting.due()
