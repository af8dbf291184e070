"""What a Ray cluster looks like from here, and where in it there is room for a shard. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

SLACK = 1e-6  # of CPUs, which Ray counts in ten-thousandths


class Node(NamedTuple):
    """A node that Ray says is alive.

    Attributes:
        key: its id.
        address: host and port of its raylet.
        processors: CPUs that it has.
        free: CPUs that nobody holds.
        leaving: whether Ray drains it.
    """

    key: str
    address: tuple[str, int]
    processors: float
    free: float
    leaving: bool = False


def room_on(node: Node, ours: int, each: float) -> int:
    """How many more shards a node has room for.

    Args:
        node: the node.
        ours: shards that are on it, those being begun included.
        each: CPUs that one reserves.
    """
    others = max(0.0, node.processors - node.free - ours * each)
    return max(0, int((node.processors - others - ours * each + SLACK) // each))


def waits(node: Node, ours: int, each: float) -> bool:
    """Whether a shard that is being begun on a node still waits for a CPU there; arguments as for `room_on`."""
    return node.processors - node.free < ours * each - SLACK


def place(nodes: Iterable[Node], ours: Mapping[str, int], each: float, avoid: Collection[str] = ()) -> str | None:
    """Choose the node of the next shard, so that the loss of one takes as few shards as possible.

    Args:
        nodes: of the cluster.
        ours: shards on each by its id, those being begun included; none on those not named.
        each: CPUs that one reserves.
        avoid: ids of nodes that are not to be used.

    Returns:
        The id of the one with fewest shards, among several of that with most room; None if there is room on none.
    """
    rooms = [
        (ours.get(node.key, 0), -room, node.key)
        for node in nodes
        if not node.leaving and node.key not in avoid and (room := room_on(node, ours.get(node.key, 0), each)) > 0
    ]
    return min(rooms)[2] if rooms else None
