"""Looks at a cluster again and again from threads of its own, so that nobody waits for what no longer answers."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from topowatch_monitor.engine.cluster import Node

    Address = tuple[str, int]

log = logging.getLogger("topowatch.engine")

LOOK_SECONDS = 0.5  # between two looks
PATIENCE_SECONDS = 1.0  # for a connection; a machine's kernel answers, however busy its processes are
GONE_SECONDS = 4.0  # without a connection, after which a machine counts as lost: a few packets may get lost on the way
STRANGER_SECONDS = 2.0  # that a head may leave a question open after it came back, before it is one of another cluster
MOST_AT_ONCE = 16  # connections


class Look(NamedTuple):
    """What Ray said of its nodes, and when it was asked, on the monotonic clock."""

    nodes: Sequence[Node]
    at: float


class ClusterWatch:
    """Asks Ray for its nodes, and tries whether they and the head can be reached at all.

    Ray itself takes half a minute and more to give up a node whose network is cut, and asks a head that is gone for a
    minute before it ends this process.

    Args:
        ask: asks Ray for the nodes that are alive; may wait for as long as it likes.
        head: address of the head.
    """

    def __init__(self, ask: Callable[[], Sequence[Node]], head: Address) -> None:
        self._ask = ask
        self._head = head
        self._silent: dict[Address, float] = {}  # since when
        self._refused: set[Address] = set()
        self._asked_at: float | None = None  # when the question that is open was put
        self._returned_at: float | None = None  # when the head could be reached again, until it has answered
        self.look = Look(ask(), time.monotonic())
        self._closed = threading.Event()
        for work in (self._look, self._try):
            threading.Thread(target=self._again, args=(work,), name=f"cluster{work.__name__}", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def out_of_reach(self, node: Node) -> str:
        """Why a node counts as lost; empty while it does not."""
        return self._why(node.address)

    @property
    def head_out_of_reach(self) -> str:
        """Why the head counts as gone; empty while it does not."""
        return self._why(self._head)

    @property
    def head_is_another(self) -> bool:
        """Whether the head came back and does not know us: what it knew was lost with it."""
        returned, asked = self._returned_at, self._asked_at
        return returned is not None and asked is not None and time.monotonic() - max(returned, asked) > STRANGER_SECONDS

    def _why(self, address: Address) -> str:
        host, port = address
        if address in self._refused:
            return f"nobody listens on {host}:{port} any more"
        since = self._silent.get(address)
        return "" if since is None or time.monotonic() - since < GONE_SECONDS else f"{host}:{port} does not answer"

    def _again(self, work: Callable[[], None]) -> None:
        while not self._closed.wait(LOOK_SECONDS):
            work()

    def _look(self) -> None:
        self._asked_at = began = time.monotonic()
        try:
            nodes = self._ask()
        except Exception as error:  # noqa: BLE001 - whatever Ray fails with, the next look may succeed
            log.warning("Ray does not tell its nodes (%s: %s)", type(error).__name__, error)
            return
        self._asked_at = self._returned_at = None
        self.look = Look(nodes, began)

    def _try(self) -> None:
        addresses = {self._head, *(node.address for node in self.look.nodes)}
        with ThreadPoolExecutor(min(len(addresses), MOST_AT_ONCE)) as connecting:
            for address, found in zip(addresses, connecting.map(connects, addresses), strict=True):
                self._note(address, found)

    def _note(self, address: Address, found: bool | None) -> None:
        if address == self._head and found and self._why(address):
            self._returned_at = time.monotonic()
        if found:
            self._silent.pop(address, None)
            self._refused.discard(address)
        elif found is None:
            self._silent.setdefault(address, time.monotonic())
        else:
            self._refused.add(address)


def connects(address: Address) -> bool | None:
    """Whether a TCP connection can be made: False if it is refused, None if there is no answer in time."""
    try:
        with contextlib.closing(socket.create_connection(address, PATIENCE_SECONDS)):
            return True
    except ConnectionRefusedError:
        return False
    except OSError:
        return None
