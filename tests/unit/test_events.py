"""The event log of a run: what it keeps, what a rewind does to it, and that it accounts for the flags."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topowatch_monitor.engine.codec import decode, encode
from topowatch_monitor.engine.events import KEPT, Events

NAMES = ("loss_rise", "loss_not_decreasing", "missing_rank")


def flags(*names: str, reason: str = "because"):
    severity = {"loss_rise": "critical"}
    return [
        {"detector": name, "severity": severity.get(name, "warning"), "since_step": 0, "reason": reason}
        for name in names
    ]


def told(events: Events):
    return [(event["step"], event["detector"], event["on"], event["superseded"]) for event in events.view()]


def accounted(events: Events) -> set[str]:
    """What is on by the events that stand."""
    last = {event["detector"]: event["on"] for event in events.view() if not event["superseded"]}
    return {name for name, on in last.items() if on}


def test_a_flag_that_goes_on_and_off_makes_two_events_with_the_words_said_then():
    events = Events()
    events.note(3, flags("loss_rise", reason="it rises"), minimum_unstable=False)
    events.note(4, flags("loss_rise", reason="it has risen"), minimum_unstable=True)
    events.note(9, [], minimum_unstable=False)
    assert told(events) == [
        (3, "loss_rise", True, False),
        (4, "minimum_unstable", True, False),
        (9, "loss_rise", False, False),
        (9, "minimum_unstable", False, False),
    ]
    assert [event["reason"] for event in events.view()] == ["it rises", "loss rise", "it has risen", "loss rise"]
    assert {event["severity"] for event in events.view()} == {"critical"}


def test_a_rewind_marks_what_was_superseded_and_puts_the_account_right():
    events = Events()
    events.note(10, flags("missing_rank"), minimum_unstable=False)
    events.note(50, flags("loss_rise"), minimum_unstable=False)
    events.supersede(30)
    # What was on at step 30 has gone off since, and the run state says that it still is.
    events.note(30, [], minimum_unstable=False)
    assert told(events) == [
        (10, "missing_rank", True, False),
        (50, "missing_rank", False, True),
        (50, "loss_rise", True, True),
        (30, "missing_rank", False, False),
    ]
    events.note(40, flags("loss_rise"), minimum_unstable=False)
    assert told(events)[-1] == (40, "loss_rise", True, False)


def test_the_newest_events_are_kept():
    events = Events()
    for step in range(KEPT):
        events.note(2 * step, flags("loss_rise"), minimum_unstable=False)
        events.note(2 * step + 1, [], minimum_unstable=False)
    assert [event["step"] for event in events.view()] == list(range(KEPT, 2 * KEPT))


def test_a_flag_whose_first_event_was_dropped_is_told_again_after_a_rewind():
    events = Events()
    events.note(0, flags("missing_rank"), minimum_unstable=False)
    for step in range(1, KEPT + 1):
        names = ("missing_rank", "loss_rise") if step % 2 else ("missing_rank",)
        events.note(step, flags(*names), minimum_unstable=False)
    assert "missing_rank" not in {event["detector"] for event in events.view()}
    events.supersede(KEPT + 1)
    events.note(KEPT + 1, flags("missing_rank"), minimum_unstable=False)
    assert told(events)[-1] == (KEPT + 1, "missing_rank", True, False)


sets = st.lists(st.sampled_from(NAMES), unique=True)
acts = st.one_of(st.tuples(st.just("note"), sets, st.booleans()), st.tuples(st.just("back"), st.integers(1, 9), sets))


@pytest.mark.parametrize("restored", [False, True])
@settings(deadline=None)
@given(script=st.lists(acts, max_size=40))
def test_the_events_that_stand_account_for_what_is_on_and_none_repeats_another(restored: bool, script):
    events, step = Events(), 0
    for act, first, second in script:
        if act == "note":
            step += 1
            names, unstable = first, second
        else:
            step = max(0, step - first)
            names, unstable = second, False
            events.supersede(step)
        events.note(step, flags(*names), minimum_unstable=unstable)
        assert accounted(events) == events.on.keys() == {*names, *(["minimum_unstable"] if unstable else [])}
        if restored:
            again = Events.from_state(decode(encode(events.state_dict())))
            assert (again.view(), again.on) == (events.view(), events.on)
            events = again
    for name in (*NAMES, "minimum_unstable"):
        standing = [event["on"] for event in events.view() if event["detector"] == name and not event["superseded"]]
        assert all(before != after for before, after in pairwise(standing))


@settings(deadline=None)
@given(script=st.lists(acts, max_size=40))
def test_no_event_is_ever_taken_back_by_a_rewind(script):
    """An engineer wants to see why the run was rolled back."""
    events, step = Events(), 0
    for act, first, second in script:
        before = events.view()
        if act == "note":
            step += 1
            events.note(step, flags(*first), minimum_unstable=second)
        else:
            step = max(0, step - first)
            events.supersede(step)
            assert [event["superseded"] for event in events.view()] == [
                event["superseded"] or event["step"] >= step for event in before
            ]
        kept = [{**event, "superseded": None} for event in events.view()]
        assert kept[: len(before)] == [{**event, "superseded": None} for event in before]
