"""Where in a cluster a shard is placed, and how its machines are watched."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from harness import eventually
from topowatch_monitor.engine.cluster import Node, place, room_on, waits
from topowatch_monitor.engine.cluster_watch import ClusterWatch

NOWHERE = ("127.0.0.1", 1)


def node(key: str, processors: float, free: float | None = None, *, leaving: bool = False) -> Node:
    return Node(key, NOWHERE, processors, processors if free is None else free, leaving)


@st.composite
def clusters(draw: st.DrawFn) -> list[Node]:
    sizes = draw(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=6))
    return [node(f"n{number}", size, leaving=leaving) for number, (size, leaving) in enumerate(sizes)]


@given(nodes=clusters(), wanted=st.integers(1, 40), each=st.sampled_from([0.5, 1.0, 1.5, 2.0]))
def test_shards_fill_the_cluster_evenly_and_no_node_beyond_its_room(
    nodes: list[Node], wanted: int, each: float
) -> None:
    ours: Counter[str] = Counter()
    while ours.total() < wanted and (chosen := place(nodes, ours, each)) is not None:
        ours[chosen] += 1
    room = {one.key: 0 if one.leaving else int(one.processors // each) for one in nodes}
    assert ours.total() == min(wanted, sum(room.values()))
    assert all(ours[key] <= room[key] for key in room)
    fullest = max(ours.values(), default=0)
    assert all(ours[key] >= min(fullest - 1, room[key]) for key in room), "one is spared while another has two more"


def test_what_others_hold_is_no_room_and_what_is_ours_is_not_theirs() -> None:
    assert room_on(node("a", 4, free=1), ours=1, each=1.0) == 1, "two of its CPUs are others'"
    assert room_on(node("a", 4, free=4), ours=1, each=1.0) == 3, "Ray has not counted ours yet"
    assert room_on(node("a", 1, free=0), ours=0, each=1.0) == 0


def test_nodes_to_avoid_and_leaving_ones_are_not_chosen() -> None:
    nodes = [node("a", 4), node("b", 4, leaving=True), node("c", 1)]
    assert place(nodes, {}, 1.0) == "a"
    assert place(nodes, {}, 1.0, avoid={"a"}) == "c"
    assert place(nodes, {"c": 1}, 1.0, avoid={"a"}) is None


def test_a_shard_that_waits_for_a_cpu_is_told_from_one_that_is_being_begun() -> None:
    assert waits(node("a", 2, free=1), ours=2, each=1.0)
    assert not waits(node("a", 2, free=0), ours=2, each=1.0)


def listening(port: int = 0) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    made.listen()
    return made


def test_a_machine_that_refuses_counts_as_lost_until_it_listens_again() -> None:
    with listening() as head, listening() as other:
        there = Node("a", other.getsockname(), 1.0, 1.0)
        with contextlib.closing(ClusterWatch(lambda: [there], head.getsockname())) as watch:
            assert not watch.out_of_reach(there)
            other.close()
            eventually(lambda: "nobody listens on 127.0.0.1" in watch.out_of_reach(there), within=30)
            assert not watch.head_out_of_reach
            with listening(there.address[1]):
                eventually(lambda: not watch.out_of_reach(there), within=30)


def test_a_head_that_comes_back_and_leaves_our_question_open_is_another() -> None:
    """A head with the same memory goes on answering."""
    knows = True

    def ask() -> list[Node]:
        if not knows:
            eventually(lambda: knows, within=60)
        return []

    head = listening()
    port = head.getsockname()[1]
    with contextlib.closing(ClusterWatch(ask, head.getsockname())) as watch:
        for knows_after in (True, False):
            head.close()
            eventually(lambda: watch.head_out_of_reach, within=30)
            assert not watch.head_is_another
            knows = knows_after
            head = listening(port)
            eventually(lambda: not watch.head_out_of_reach, within=30)
            if not knows_after:
                eventually(lambda: watch.head_is_another, within=30)
        knows = True
        eventually(lambda: not watch.head_is_another, within=30)
    head.close()
