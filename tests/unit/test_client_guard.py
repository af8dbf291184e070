"""One thing of ours at a time, whichever threads and signal handlers ask for it."""

from __future__ import annotations

import os
import threading

import pytest

from topowatch_client.guard import Turns


def test_what_is_asked_for_in_the_middle_is_done_behind_it_in_order() -> None:
    turns, done = Turns(), []

    def first() -> None:
        turns.take(lambda: done.append("second"))
        turns.take(lambda: done.append("third"))
        done.append("first")

    turns.take(first)
    assert done == ["first", "second", "third"]


def test_what_was_asked_for_in_the_middle_is_done_even_if_that_is_broken_off() -> None:
    turns, done = Turns(), []

    def broken() -> None:
        turns.take(lambda: done.append("later"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        turns.take(broken)
    turns.take(lambda: done.append("next"))
    assert done == ["later", "next"]


def test_thousands_may_wait_for_one_and_are_done_behind_it() -> None:
    turns, done = Turns(), []

    def first() -> None:
        for number in range(5000):
            turns.take(lambda number=number: done.append(number))

    turns.take(first)
    assert done == list(range(5000))


def test_thousands_may_be_broken_off_and_the_last_one_tells_of_those_before() -> None:
    turns, done = Turns(), []

    def broken(number: int) -> None:
        done.append(number)
        raise ValueError(number)

    def first() -> None:
        for number in range(5000):
            turns.take(lambda number=number: broken(number))
        raise KeyboardInterrupt

    with pytest.raises(ValueError, match="4999") as told:
        turns.take(first)
    assert done == list(range(5000))
    error, before = told.value, 0
    while (error := error.__context__) is not None:
        before += 1
        last = error
    assert before == 5000
    assert isinstance(last, KeyboardInterrupt)


def test_an_error_that_is_raised_twice_is_not_its_own_context() -> None:
    turns, same = Turns(), ValueError()

    def broken() -> None:
        raise same

    def first() -> None:
        turns.take(broken)
        broken()

    with pytest.raises(ValueError) as told:  # noqa: PT011 - identity is checked
        turns.take(first)
    assert told.value is same
    assert same.__context__ is None


def test_threads_take_turns_and_none_is_left_waiting() -> None:
    turns, inside, counts = Turns(), [], [0, 0]

    def work(thread: int) -> None:
        def one() -> None:
            inside.append(thread)
            assert len(inside) == 1
            counts[thread] += 1
            inside.pop()

        for _ in range(2000):
            turns.take(one)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not turns._waiting
    assert counts == [2000, 2000]


def test_a_child_that_is_forked_in_the_middle_does_not_wait_for_a_thread_that_it_has_not() -> None:
    turns, began, end = Turns(), threading.Event(), threading.Event()
    holder = threading.Thread(target=lambda: turns.take(lambda: (began.set(), end.wait(60))))
    holder.start()
    began.wait(60)
    child = os.fork()
    if child == 0:  # pragma: no cover -- runs in the child
        turns.take(lambda: None)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    end.set()
    holder.join(60)


def test_a_turn_that_was_never_given_back_is_taken_over() -> None:
    """As when a handler raised between taking the lock and the block that gives it back."""
    turns, done = Turns(), []
    turns._lock.acquire()
    turns.take(lambda: done.append("taken over"))
    turns.take(lambda: done.append("and given back"))
    assert done == ["taken over", "and given back"]
