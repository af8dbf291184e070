"""The load of bench_fleet.py and bench_restart.py: many runs at once, and what is not acked is sent again.

A process of its own. It fills the windows of all runs as fast as the daemon takes them and says so; told to go, it
sends a sample a run each period, spread evenly; told to stop, it reports what it sent when, and what was acked.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict

import grpc

from topowatch_monitor.simulate import RunPlan, descriptor, fleet, synthetic_run
from topowatch_protos.v1 import ingest_pb2, ingest_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BATCH = 16  # items
FILLERS = 8  # runs that are filled at the same time
CONNECTIONS = 20
GROUP_RUNS = 20
FAILING = 0.1
PAUSE_SECONDS = 1.0  # before a batch is sent again, about as forwarders wait
FAREWELL_SECONDS = 60.0
STATUS = ingest_pb2.AckStatus
CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
]

Item = tuple[int, bytes]  # seq and encoded item


@dataclass(frozen=True)
class Size:
    """How much is sent.

    Attributes:
        runs: at the same time.
        fill: samples of each, first.
        period: seconds between two samples of a run, then.
        seconds: for how long there is something to send.
        probes: prediction positions a sample.
    """

    runs: int
    fill: int
    period: float
    seconds: float
    probes: int

    def plans(self) -> list[RunPlan]:
        """The runs, in sweeps of GROUP_RUNS; one in ten fails, and none falls silent."""
        samples = self.fill + int(self.seconds / self.period) + 1
        planned = fleet(self.runs, failing=FAILING, samples=samples, probes=self.probes)
        return [
            replace(
                plan,
                group=f"sweep-{number // GROUP_RUNS:02d}",
                kind="rising" if plan.kind == "stalled" else plan.kind,
            )
            for number, plan in enumerate(planned)
        ]


class Sent(TypedDict):
    """A sample of the steady part: its run, when it came to be and was first sent, and when it was acked, if it was.

    Times are those of the machine's monotonic clock, in seconds.
    """

    run: str
    seq: int
    step: int
    due: float
    sent: float
    acked: float | None


class Report(TypedDict):
    """What the load did: all of `fill` is acked, and `sent` tells of what came after."""

    sent: list[Sent]
    sent_again: int


class Load:
    """The process, for whoever starts it."""

    def __init__(self, endpoint: str, size: Size) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, endpoint, *map(str, vars(size).values())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # its threads would wait for each other on the daemon's cores
        )

    def filled(self) -> None:
        """Wait until all windows are filled."""
        self._heard()

    def go(self) -> None:
        """Let it send on at its pace."""
        self._say("go")

    def stop(self) -> Report:
        """Let it end; return what it did."""
        self._say("stop")
        report: Report = json.loads(self._heard())
        return report

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def _heard(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the load ended by itself, exit {self._process.wait()}")
        return line


class Writer:
    """One run: what is not acked is kept and sent again, in a new stream if need be."""

    def __init__(self, stub: ingest_pb2_grpc.IngestServiceStub, plan: RunPlan, started_at: float) -> None:
        self.plan = plan
        self.sent_again = 0
        self.rest: list[Item] = []
        self.sent: list[Sent] = []
        self._stub = stub
        self._started_at = started_at
        self._described = descriptor(plan, incarnation=round(started_at * 1000), started_at=started_at)
        self._call: grpc.aio.StreamStreamCall | None = None

    async def fill(self, count: int) -> None:
        """Send the first `count` samples; keep the others for later, all but the run's end."""
        items: Iterable[Item] = enumerate(synthetic_run(self.plan, started_at=self._started_at))
        first = itertools.islice(items, count)
        while batch := list(itertools.islice(first, BATCH)):
            await self._deliver(batch)
        self.rest = list(itertools.islice(items, self.plan.samples - count))

    async def pace(self, first_at: float, period: float, stop: asyncio.Event) -> None:
        """Send what is left, a sample each `period` from `first_at` on, until told to stop."""
        while self.rest and not stop.is_set():
            now = time.monotonic()
            due = [first_at + (len(self.sent) + ahead) * period for ahead in range(min(BATCH, len(self.rest)))]
            batch = self.rest[: sum(at <= now for at in due)]
            if not batch:
                await asyncio.sleep(min(due[0] - now, 1.0))
                continue
            fresh: list[Sent] = [
                {
                    "run": self.plan.run,
                    "seq": seq,
                    "step": (seq + 1) * self.plan.interval - 1,
                    "due": at,
                    "sent": now,
                    "acked": None,
                }
                for (seq, _), at in zip(batch, due, strict=False)
            ]
            self.sent += fresh
            await self._deliver(batch)
            del self.rest[: len(batch)]
            for each in fresh:
                each["acked"] = time.monotonic()
        if not stop.is_set():
            raise RuntimeError("there was not enough to send")

    async def _deliver(self, items: Sequence[Item]) -> None:
        """Send a batch until it is acked."""
        batch = ingest_pb2.Batch(
            id=items[-1][0],
            key=self._described.key,
            incarnation=self._described.incarnation,
            writer_uuid=self._described.writer_uuid,
            items=[ingest_pb2.Envelope(seq=seq, item=item) for seq, item in items],
        )
        while True:
            ack = await self._exchange(batch)
            pause = PAUSE_SECONDS
            if ack is not None:
                if ack.status == ingest_pb2.ACK_STATUS_STORED and not ack.rejections:
                    return
                if ack.status == ingest_pb2.ACK_STATUS_UNKNOWN_RUN:
                    batch.descriptor.CopyFrom(self._described)
                elif ack.status not in {ingest_pb2.ACK_STATUS_RESOURCE_EXHAUSTED, ingest_pb2.ACK_STATUS_UNAVAILABLE}:
                    raise RuntimeError(f"not stored: {ack}")
                pause = ack.retry_after.ToTimedelta().total_seconds() or pause
            self.sent_again += 1
            await asyncio.sleep(pause)

    async def _exchange(self, batch: ingest_pb2.Batch) -> ingest_pb2.Ack | None:
        """Send a batch once; None where the stream ended instead of an answer."""
        try:
            if self._call is None:
                self._call = self._stub.StreamBatches()
                batch.descriptor.CopyFrom(self._described)
            await self._call.write(ingest_pb2.StreamBatchesRequest(batch=batch))
            answer = await self._call.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            answer = grpc.aio.EOF
        if answer is grpc.aio.EOF:
            self._call = None
            return None
        return answer.ack


async def fill(writers: Sequence[Writer], count: int) -> None:
    """Fill all runs, FILLERS at a time."""
    waiting = iter(writers)
    tenth = max(1, len(writers) // 10)

    async def filler() -> None:
        for writer in waiting:
            await writer.fill(count)
            done = sum(bool(each.rest) for each in writers)
            if done % tenth == 0:
                print(f"{done} of {len(writers)} runs are filled", file=sys.stderr, flush=True)

    await asyncio.gather(*(filler() for _ in range(FILLERS)))


async def main(endpoint: str, size: Size) -> None:
    channels = [grpc.aio.insecure_channel(endpoint, options=CHANNEL) for _ in range(CONNECTIONS)]
    stubs = itertools.cycle([ingest_pb2_grpc.IngestServiceStub(channel) for channel in channels])
    started_at = time.time()
    writers = [Writer(next(stubs), plan, started_at) for plan in size.plans()]
    await fill(writers, size.fill)
    print("filled", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    stop = asyncio.Event()
    first_at = time.monotonic()
    at_work = [
        asyncio.create_task(
            writer.pace(first_at + size.period * number / size.runs, size.period, stop), name=writer.plan.run
        )
        for number, writer in enumerate(writers)
    ]
    await asyncio.to_thread(sys.stdin.readline)
    stop.set()
    done, waiting = await asyncio.wait(at_work, timeout=FAREWELL_SECONDS, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()
    if waiting:
        names = sorted(task.get_name() for task in waiting)
        raise SystemExit(f"after {FAREWELL_SECONDS:g} s {len(names)} runs still wait for an ack, {names[0]} among them")
    report: Report = {
        "sent": [each for writer in writers for each in writer.sent],
        "sent_again": sum(writer.sent_again for writer in writers),
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("endpoint")
    for name, kind in (("runs", int), ("fill", int), ("period", float), ("seconds", float), ("probes", int)):
        parser.add_argument(name, type=kind)
    told = vars(parser.parse_args())
    asyncio.run(main(told.pop("endpoint"), Size(**told)))
