"""Group commit: grouping, order, bounds and failures."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from topowatch_monitor.store.commit import CommitClosedError, GroupCommit, QueueFullError
from topowatch_monitor.store.disk import OsDisk
from topowatch_monitor.store.log import Log, LogUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class GatedLog(Log):
    """A log whose appends wait for a gate and can be made to fail."""

    gate: threading.Event
    begun: threading.Event
    failing: bool
    groups: list[int]

    def append(self, records: Sequence[tuple[int, bytes]]) -> int:
        self.begun.set()
        assert self.gate.wait(10)
        self.groups.append(len(records))
        if self.failing:
            raise LogUnavailable("the disk is full")
        return super().append(records)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[GatedLog]:
    log = GatedLog.open(tmp_path, OsDisk())
    assert isinstance(log, GatedLog)
    log.gate, log.begun, log.failing, log.groups = threading.Event(), threading.Event(), False, []
    yield log
    log.gate.set()
    log.close()


def test_what_queues_up_during_a_write_becomes_one_group_in_order(log: GatedLog) -> None:
    durable: list[int] = []
    resolved: list[int] = []
    commit = GroupCommit(log, on_durable=durable.append)
    futures = [commit.submit([(2, b"first")])]
    assert log.begun.wait(10)
    futures += [commit.submit([(2, bytes([n])), (2, b"")]) for n in range(5)]
    for future in futures:
        future.add_done_callback(lambda future: resolved.append(future.result()))
    assert commit.pending_bytes > 0
    log.gate.set()
    assert [future.result(10) for future in futures] == [0, 1, 3, 5, 7, 9]
    commit.close()
    assert resolved == [0, 1, 3, 5, 7, 9]
    assert log.groups == [1, 10]
    assert durable == [1, 11]
    assert commit.pending_bytes == 0
    assert log.next_offset == 11


def test_a_group_is_bounded(log: GatedLog) -> None:
    commit = GroupCommit(log, max_group_bytes=1000)
    commit.submit([(2, b"")])
    assert log.begun.wait(10)
    for _ in range(4):
        commit.submit([(2, bytes(400))])
    commit.submit([(2, bytes(5000))])
    log.gate.set()
    commit.close()
    assert log.groups == [1, 2, 2, 1]


def test_a_full_queue_refuses_and_takes_again_when_it_is_written(log: GatedLog) -> None:
    commit = GroupCommit(log, max_pending_bytes=1000)
    first = commit.submit([(2, bytes(900))])
    with pytest.raises(QueueFullError, match="wait to be written"):
        commit.submit([(2, bytes(900))])
    log.gate.set()
    first.result(10)
    assert commit.submit([(2, bytes(5000))]).result(10) == 1  # larger than the bound, but alone
    commit.close()


def test_a_failed_write_is_told_to_all_of_its_group_and_the_next_succeeds(log: GatedLog) -> None:
    durable: list[int] = []
    log.failing = True
    log.gate.set()
    commit = GroupCommit(log, on_durable=durable.append)
    with pytest.raises(LogUnavailable, match="disk is full"):
        commit.submit([(2, b"x")]).result(10)
    assert commit.pending_bytes == 0
    assert durable == []
    log.failing = False
    assert commit.submit([(2, b"x")]).result(10) == 0
    commit.close()


def test_exclusive_calls_wait_for_the_queue_and_hand_on_errors(log: GatedLog) -> None:
    commit = GroupCommit(log)
    written = commit.submit([(2, b"x")])
    seen = commit.run_exclusive(lambda log: (written.done(), log.next_offset))
    failed = commit.run_exclusive(lambda _: 1 // 0)
    log.gate.set()
    assert seen.result(10) == (True, 1)
    with pytest.raises(ZeroDivisionError):
        failed.result(10)
    commit.close()


def test_closing_writes_what_is_queued_and_refuses_more(log: GatedLog) -> None:
    commit = GroupCommit(log)
    futures = [commit.submit([(2, b"x")]) for _ in range(3)]
    log.gate.set()
    commit.close()
    assert [future.result(0) for future in futures] == [0, 1, 2]
    with pytest.raises(CommitClosedError):
        commit.submit([(2, b"y")])
    with pytest.raises(CommitClosedError):
        commit.run_exclusive(lambda log: log.next_offset)


def test_a_future_cannot_be_cancelled(log: GatedLog) -> None:
    """What is queued gets written, and the writer's thread outlives those who no longer wait."""
    commit = GroupCommit(log)
    future = commit.submit([(2, b"x")])
    assert not future.cancel()
    log.gate.set()
    commit.close()
    assert future.result(0) == 0
