"""Durable ingest of one daemon: samples of 4 KiB per second, and how long an ack takes.

Run it with `python tests/bench/bench_ingest.py [--seconds 10] [--writers 8]`. The daemon (gRPC server, admission, log)
is a process of its own; the load comes from a second one. Both share the machine's cores and its real disk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import grpc
import numpy as np
from machine import machine

from topowatch_monitor.ingest.admission import Admission
from topowatch_monitor.ingest.core import Ingest
from topowatch_monitor.ingest.service import start_server
from topowatch_monitor.store.commit import GroupCommit
from topowatch_monitor.store.disk import OsDisk
from topowatch_monitor.store.log import Log
from topowatch_protos.v1 import ingest_pb2 as pb
from topowatch_protos.v1 import run_pb2, sample_pb2
from topowatch_protos.v1.ingest_pb2_grpc import IngestServiceStub

DIMENSION = 1021
BAR_RATE = 20_000
BAR_P99 = 0.250


async def serve(directory: Path) -> None:
    """Run a daemon's ingest until standard input closes; print its port."""
    log = Log.open(directory, OsDisk())
    admission = Admission()
    admission.restore(log.last_segment())
    ingest = Ingest(admission, GroupCommit(log))
    server, port = await start_server(ingest, "127.0.0.1:0")
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(1.0)
    await ingest.close()
    usage = os.times()
    print(json.dumps({"cpu": usage.user + usage.system, "samples": ingest.counters.samples_total}), flush=True)
    log.close()


def encoded_sample(generator: np.random.Generator) -> bytes:
    """Return an item of about 4 KiB: one weight sketch and a scalar."""
    values = generator.standard_normal(DIMENSION).astype("<f4").tobytes()
    sample = sample_pb2.Sample(step=1, weights=sample_pb2.Sketch(values=values))
    sample.scalars.add(name="loss", steps=[1], values=[0.5])
    return sample_pb2.Item(schema=1, sample=sample).SerializeToString()


async def write(stub: IngestServiceStub, number: int, options: argparse.Namespace, latencies: list[float]) -> int:
    """Stream batches with `window` unacked ones at most; return the samples acked as stored."""
    generator = np.random.default_rng(number)
    items = [encoded_sample(generator) for _ in range(options.batch)]
    key = run_pb2.RunKey(group="bench", run=f"run-{number}")
    descriptor = run_pb2.RunDescriptor(key=key, world_size=1, incarnation=1, writer_uuid=uuid.uuid4().hex)
    descriptor.sketch.dimension = DIMENSION
    stream = stub.StreamBatches()
    sent: dict[int, float] = {}
    room = asyncio.Semaphore(options.window)
    end = time.perf_counter() + options.seconds
    seq = stored = 0

    async def receive() -> None:
        nonlocal stored
        async for response in stream:
            ack = response.ack
            if ack.status != pb.ACK_STATUS_STORED or ack.rejections:
                raise RuntimeError(f"not stored: {ack}")
            latencies.append(time.perf_counter() - sent.pop(ack.batch_id))
            stored += options.batch
            room.release()

    receiver = asyncio.create_task(receive())
    identifier = 0
    receiver.add_done_callback(lambda _: room.release())
    while time.perf_counter() < end and not receiver.done():
        await room.acquire()
        batch = pb.Batch(id=identifier, key=key, incarnation=1, writer_uuid=descriptor.writer_uuid)
        if identifier == 0:
            batch.descriptor.CopyFrom(descriptor)
        batch.items.extend([pb.Envelope(seq=seq + index, item=item) for index, item in enumerate(items)])
        seq += len(items)
        sent[identifier] = time.perf_counter()
        await stream.write(pb.StreamBatchesRequest(batch=batch))
        identifier += 1
    if not receiver.done():
        await stream.done_writing()
    await receiver
    return stored


async def load(port: int, options: argparse.Namespace) -> tuple[float, list[float]]:
    """Drive the daemon with all writers; return samples per second and the acks' latencies in seconds."""
    latencies: list[float] = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = IngestServiceStub(channel)
        began = time.perf_counter()
        stored = await asyncio.gather(*(write(stub, number, options, latencies) for number in range(options.writers)))
        return sum(stored) / (time.perf_counter() - began), latencies


def main() -> int:
    """Measure, print figures and machine; exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64, help="samples of a batch")
    parser.add_argument("--window", type=int, default=4, help="unacked batches of a writer")
    parser.add_argument("--directory", type=Path, help="where the log is written (default: a temporary directory)")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve))
        return 0
    with (
        tempfile.TemporaryDirectory(dir=options.directory) as directory,
        subprocess.Popen(
            [sys.executable, __file__, "--serve", directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as daemon,
    ):
        assert daemon.stdout is not None
        port = int(daemon.stdout.readline())
        rate, latencies = asyncio.run(load(port, options))
        output, _ = daemon.communicate()
        report = json.loads(output)
    p50, p99 = np.quantile(latencies, [0.5, 0.99])
    print(f"machine    {machine()}")
    print(
        f"load       {options.writers} writers with {options.window} unacked batches of {options.batch} 4 KiB samples"
    )
    print(f"rate       {rate:,.0f} samples/s acked and on disk (bar: {BAR_RATE:,})")
    print(f"ack        p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms (bar: {BAR_P99 * 1e3:.0f} ms)")
    print(f"daemon CPU {report['cpu'] / report['samples'] * 1e6:.1f} µs a sample")
    return 0 if rate >= BAR_RATE and p99 <= BAR_P99 else 1


if __name__ == "__main__":
    sys.exit(main())
