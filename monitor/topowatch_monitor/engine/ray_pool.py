"""Shards on Ray actors, and jobs as Ray tasks. The one file that knows Ray."""

from __future__ import annotations

import importlib.metadata
import logging
import math
import os
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ray
from ray._private import services, state, worker
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from topowatch_monitor.engine.child_job import NICER
from topowatch_monitor.engine.cluster import Node, place, waits
from topowatch_monitor.engine.cluster_watch import LOOK_SECONDS, ClusterWatch
from topowatch_monitor.engine.pool import (
    Call,
    ClusterLostError,
    Job,
    JobFailedError,
    JobLostError,
    NoCarrierError,
    ShardLostError,
    Standing,
)
from topowatch_monitor.engine.session import kill_session
from topowatch_monitor.engine.shard import STATE, Shard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from topowatch_monitor.engine.told import RunSettings

log = logging.getLogger("topowatch.engine")

OBJECT_STORE_BYTES = 256 << 20
START_SECONDS = 120.0  # for an actor on a node with room: a new process, and what it imports, on a busy machine
ROOM_SECONDS = 5.0  # for a CPU that was free at the last look
GATHER_SECONDS = 20.0  # for the others, once one is there
AVOID_SECONDS = 30.0  # a node on which an actor could not be begun
ANSWER_SECONDS = 120.0  # for a call that is an actor's next; one that hangs may have nothing else to do
SLICE_SECONDS = 1.0  # of waiting, between two looks whether there is anything to wait for


@dataclass(eq=False)
class _Actor:
    """An actor on a node, what it says of itself when it has begun, and the calls that it has not answered.

    Attributes:
        since: when it was begun, and later when it last answered or had nothing to answer.
    """

    handle: Any
    node: str
    hello: Any
    since: float
    calls: deque[Any] = field(default_factory=deque)

    def let_go(self, now: float) -> None:
        """Hold what it has answered no longer, so that Ray keeps it no longer than whoever asked."""
        while self.calls and ray.wait([self.calls[0]], timeout=0)[0]:
            self.calls.popleft()
            self.since = now

    def hangs(self, now: float) -> str:
        """Why it counts as lost though its node is there; empty while it answers."""
        self.let_go(now)
        if not self.calls:
            self.since = now
        return f"no answer for {ANSWER_SECONDS:g} s" if now - self.since > ANSWER_SECONDS else ""


class RayPool:
    """Actors that each carry one `Shard`, spread over the nodes of a cluster; as many as it has room for.

    Args:
        size: actors that are wanted.
        settings: how much of each run is looked at.
        address: a cluster to join (`auto` or HOST:PORT), or None for a Ray of our own on this machine.
        most: actors to begin where there is room for them; default: `size`.
        processors: what one actor reserves of a cluster's CPUs.

    Raises:
        ConnectionError: there is no Ray at `address`.
    """

    def __init__(
        self,
        size: int,
        settings: RunSettings,
        address: str | None = None,
        *,
        most: int | None = None,
        processors: float = 1.0,
    ) -> None:
        own = address is None
        ray.init(
            address=address or "local",
            num_cpus=max(1, round(size * processors)) if own else None,
            object_store_memory=OBJECT_STORE_BYTES if own else None,
            include_dashboard=False if own else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
            # Ray gives its workers a niceness of 15: beside a busy job an actor would not even start within minutes.
            _system_config={"worker_niceness": 0} if own else None,
        )
        self._own = own
        self._size, self._most, self._processors = size, most or size, processors
        self._settings = settings
        # An actor that Ray revived by itself would be empty, so Ray revives none.
        self._actor_class = ray.remote(num_cpus=processors, max_restarts=0, max_task_retries=0)(Shard)
        self._actors: dict[int, _Actor] = {}
        self._beginning: dict[int, _Actor] = {}
        self._begun = 0
        self._unusable: dict[str, tuple[float, str]] = {}  # nodes on which none is begun, until when, and why
        self._told = ""
        # Actors may hold all processors, so a job reserves none and yields to them. Its process, whose priority cannot
        # be raised again, serves no second one, let alone an actor.
        self._task = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(_yielding)
        self._watch = ClusterWatch(_nodes, _parsed(ray.get_runtime_context().gcs_address))
        self.tend()

    @property
    def carriers(self) -> Sequence[int]:
        """Numbers of the actors that have begun."""
        return list(self._actors)

    @property
    def trouble(self) -> str:
        """What keeps the pool from carrying all that it should, in a sentence; empty if nothing does."""
        told = [why for _, why in self._unusable.values()]
        if why := self._watch.head_out_of_reach:
            told.append(f"the head of the Ray cluster is gone ({why}): no shard can be begun until it is back")
        elif len(self._actors) < self._size:
            told.append(self._lacking())
        return "; ".join(told)

    def start(self) -> None:
        """Wait until the actors have begun that there is room for; raises NoCarrierError or ClusterLostError."""
        asked = time.monotonic()
        while True:
            self.tend()
            waited = time.monotonic() - asked
            if self._actors and (not self._beginning or waited > GATHER_SECONDS):
                return
            if not self._actors and (why := self._watch.head_out_of_reach):
                raise ClusterLostError(why)
            if not self._actors and not self._beginning and self._watch.look.at > asked + 2 * LOOK_SECONDS:
                raise NoCarrierError(self.trouble)
            hellos = [actor.hello for actor in self._beginning.values()]
            if hellos:
                ray.wait(hellos, num_returns=1, timeout=LOOK_SECONDS)
            else:
                time.sleep(LOOK_SECONDS / 5)

    def tend(self) -> Standing:
        """Begin actors where there is room for them and take in those that have begun, without waiting for any.

        Raises ClusterLostError.
        """
        gone = self._watch.head_out_of_reach
        if self._watch.head_is_another or (self._own and gone):
            raise ClusterLostError(gone or "the head of the Ray cluster has begun anew and knows nothing of us")
        nodes = {node.key: node for node in self._watch.look.nodes}
        now = time.monotonic()
        self._unusable = {
            key: (until, why) for key, (until, why) in self._unusable.items() if key in nodes and now < until
        }
        for number, actor in list(self._beginning.items()):
            self._see(number, actor, nodes.get(actor.node))
        leaving = frozenset(number for number, actor in self._actors.items() if _leaving(nodes.get(actor.node)))
        if not gone:
            self._grow([node for node in nodes.values() if not self._watch.out_of_reach(node)], len(leaving))
        if self.trouble != self._told:
            self._told = self.trouble
            log.warning("%s", self._told or f"all {len(self._actors)} shards have a place")
        whys = {number: self._out_of_reach(number) or actor.hangs(now) for number, actor in self._actors.items()}
        return Standing(leaving, {number: why for number, why in whys.items() if why})

    def call(self, carrier: int, method: str, *arguments: object) -> Call:
        """Begin an actor call; raises ShardLostError."""
        needs = next((argument.carrier for argument in arguments if isinstance(argument, Call)), None)
        actor = self._actors[carrier]
        try:
            answer = getattr(actor.handle, method).remote(*_results(arguments))
        except RayError as error:
            raise ShardLostError(carrier, _first_line(error)) from error
        actor.calls.append(answer)
        return Call(carrier, answer, needs)

    def ready(self, calls: Sequence[Call], timeout: float) -> list[Call]:
        """Those of `calls` that have ended or failed, waiting up to `timeout` seconds for the first."""
        if not calls:
            return []
        done, _ = ray.wait([call.handle for call in calls], num_returns=len(calls), timeout=0)
        if not done and timeout > 0:
            done, _ = ray.wait([call.handle for call in calls], num_returns=1, timeout=timeout)
        ended = set(done)
        return [call for call in calls if call.handle in ended]

    def result(self, call: Call, timeout: float) -> Any:
        """What the call returned; raises ShardLostError if it did not within `timeout` seconds, or never will."""
        deadline = time.monotonic() + timeout
        while not ray.wait([call.handle], timeout=min(SLICE_SECONDS, timeout))[0]:
            for carrier in (call.carrier, call.needs):
                if carrier is not None and (why := self._out_of_reach(carrier)):
                    raise ShardLostError(carrier, why)
            if time.monotonic() > deadline:
                raise ShardLostError(call.carrier, f"no answer for {timeout:g} s")
        if call.carrier in self._actors:
            self._actors[call.carrier].let_go(time.monotonic())
        try:
            return ray.get(call.handle)
        except RayTaskError as error:
            if call.needs is None or not isinstance(error.cause, RayError):
                raise  # a defect of ours, which a new actor would meet again
            raise ShardLostError(call.needs, _first_line(error.cause)) from error
        except RayError as error:
            raise ShardLostError(call.carrier, _first_line(error)) from error

    def drop(self, carrier: int) -> None:
        """Kill what is left of an actor."""
        ray.kill(self._actors.pop(carrier).handle)

    def put(self, value: object) -> Any:
        """Put a value in the object store."""
        return ray.put(value)

    def submit(self, function: Callable[..., Any], *arguments: object) -> Job:
        """Begin a job as a task on a node that carries an actor: others may lack topowatch, or have another version."""
        nodes = {node.key for node in self._watch.look.nodes if not (node.leaving or self._watch.out_of_reach(node))}
        node = next((actor.node for actor in self._actors.values() if actor.node in nodes), None)
        if node is None:
            raise JobLostError("no node that carries a shard can be reached")
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        return Job(self._task.options(scheduling_strategy=there).remote(function, *_results(arguments)))

    def ended(self, job: Job) -> bool:
        """Whether the task returned, raised or died."""
        done, _ = ray.wait([job.handle], timeout=0)
        return bool(done)

    def outcome(self, job: Job) -> Any:
        """What the function returned; raises JobLostError or JobFailedError."""
        try:
            return ray.get(job.handle)
        except RayTaskError as error:
            if isinstance(error.cause, RayError):  # what it needs was with a carrier that died
                raise JobLostError(_first_line(error.cause)) from error
            raise JobFailedError(f"{type(error.cause).__name__}: {error.cause}") from error
        except RayError as error:
            raise JobLostError(_first_line(error)) from error

    def cancel(self, job: Job) -> None:
        """Kill the task's process."""
        ray.cancel(job.handle, force=True)

    def close(self) -> None:
        """Leave the cluster; a Ray of our own ends with it."""
        self._watch.close()
        ray.shutdown()

    def kill(self) -> None:
        """End a Ray of our own at once, and this process with it: to shut it down in order takes seconds."""
        node = worker.global_worker.node
        try:
            if node is not None:
                node.destroy_external_storage()  # what it has spilled
        finally:
            kill_session(os.getsid(0))

    def _ours(self) -> Counter[str]:
        return Counter(actor.node for actor in [*self._actors.values(), *self._beginning.values()])

    def _grow(self, nodes: Sequence[Node], leaving: int) -> None:
        """Begin actors on nodes that can be reached, up to the most."""
        while len(self._actors) - leaving + len(self._beginning) < self._most:
            node = place(nodes, self._ours(), self._processors, self._unusable)
            if node is None:
                return
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            handle: Any = self._actor_class.options(scheduling_strategy=there).remote(self._settings)
            self._beginning[self._begun] = _Actor(handle, node, handle.version.remote(), time.monotonic())
            self._begun += 1

    def _see(self, number: int, actor: _Actor, node: Node | None) -> None:
        """See what has become of an actor that was begun."""
        if ray.wait([actor.hello], timeout=0)[0]:
            lasting, why = _unfit(actor.hello)
        else:
            lasting, why = False, self._too_late(actor, node)
            if not why:
                return
        del self._beginning[number]
        if not why:
            self._actors[number] = actor
            return
        ray.kill(actor.handle)
        where = actor.node[:8] if node is None else f"{node.address[0]} ({actor.node[:8]})"
        until = math.inf if lasting else time.monotonic() + AVOID_SECONDS
        self._unusable[actor.node] = until, f"no shard can be begun on the Ray node {where}: {why}"

    def _too_late(self, actor: _Actor, node: Node | None) -> str:
        """Why an actor that has not begun yet never will; empty while it may."""
        waited = time.monotonic() - actor.since
        if node is not None and (why := self._watch.out_of_reach(node)):
            return why
        if node is not None and waited > ROOM_SECONDS and waits(node, self._ours()[actor.node], self._processors):
            return "other work has taken its CPUs"
        return "" if waited < START_SECONDS else f"it did not begin within {START_SECONDS:g} s"

    def _lacking(self) -> str:
        told = f"{len(self._actors)} of {self._size} shards have a place"
        if self._beginning:
            return f"{told}, {len(self._beginning)} are being begun"
        nodes = [node for node in self._watch.look.nodes if not self._watch.out_of_reach(node)]
        there, free = sum(node.processors for node in nodes), sum(node.free for node in nodes)
        has = f"nodes: {len(nodes)}, CPUs: {there:g}, free: {free:g}, a shard takes {self._processors:g}"
        return f"{told}: the Ray cluster has no room for more ({has}): add a node, or ask for fewer with --shards"

    def _out_of_reach(self, carrier: int) -> str:
        """Why the node of an actor counts as lost; empty while it does not."""
        key = self._actors[carrier].node if carrier in self._actors else ""
        node = next((node for node in self._watch.look.nodes if node.key == key), None)
        return "Ray says that its node is dead" if node is None else self._watch.out_of_reach(node)


def _unfit(hello: Any) -> tuple[bool, str]:
    """Why an actor that has answered, or died, cannot carry a shard, and whether that lasts; empty if it can."""
    own = importlib.metadata.version("topowatch"), STATE
    try:
        found = ray.get(hello)
    except RayError as error:
        if "No module named 'topowatch" in str(error):
            return (
                True,
                f"topowatch is not installed there: install topowatch[monitor]=={own[0]} and start its Ray anew",
            )
        return False, _last_line(error)
    if found == own:
        return False, ""
    other = f"topowatch {found[0]} is installed there (states of version {found[1]}), here it is {own[0]} ({own[1]})"
    return True, f"{other}: install the same one and start its Ray anew"


def _nodes() -> list[Node]:
    """The nodes that Ray says are alive; waits for as long as its head does not answer."""
    known: Any = state  # Ray's types leave these out
    free = known.available_resources_per_node()
    leaving = known.state.get_draining_nodes()
    return [
        Node(
            key=node["NodeID"],
            address=(node["NodeManagerAddress"], node["NodeManagerPort"]),
            processors=node["Resources"].get("CPU", 0.0),
            free=free.get(node["NodeID"], {}).get("CPU", 0.0),
            leaving=node["NodeID"] in leaving,
        )
        for node in known.nodes()
        if node["Alive"]
    ]


def _leaving(node: Node | None) -> bool:
    return node is not None and node.leaving


def _results(arguments: Sequence[object]) -> list[object]:
    """Arguments as Ray takes them: what a call will return is passed on without passing through here."""
    return [argument.handle if isinstance(argument, Call) else argument for argument in arguments]


def head_of(address: str) -> tuple[str, int]:
    """Host and port of the head of the cluster at an address, `auto` or HOST:PORT.

    Raises:
        ConnectionError: there is no Ray on this machine for `auto` to find.
        ValueError: it is no address.
    """
    return _parsed(services.canonicalize_bootstrap_address(address) or "")


def _parsed(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _yielding(function: Callable[..., Any], *arguments: object) -> Any:
    os.nice(NICER)
    return function(*arguments)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2]
