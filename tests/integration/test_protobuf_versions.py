"""The generated code and the client's use of it on every protobuf that we support."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import unavailable

ROOT = Path(__file__).parents[2]

ROUND_TRIP = """
import sys
import google.protobuf
from topowatch_protos import framing
from topowatch_protos.v1 import ingest_pb2, log_pb2, run_pb2, sample_pb2
import topowatch_client.forwarder

assert google.protobuf.__version__.startswith(sys.argv[1]), google.protobuf.__version__
sample = sample_pb2.Sample(step=3, scalars=[sample_pb2.ScalarSeries(name="loss", steps=[3], values=[float("nan")])])
sample.weights.values = b"\\0" * 4084
sample.time.GetCurrentTime()
item = sample_pb2.Item(schema=1, sample=sample).SerializeToString()
batch = ingest_pb2.Batch(key=run_pb2.RunKey(run="r"), items=[ingest_pb2.Envelope(seq=7, item=item)])
batch.descriptor.labels["lr"] = "0.1"
again = ingest_pb2.Batch.FromString(batch.SerializeToString())
assert again == batch
[frame] = framing.scan(framing.MAGIC + framing.encode(framing.SpoolKind.ENVELOPE, again.items[0].SerializeToString()))
assert sample_pb2.Item.FromString(ingest_pb2.Envelope.FromString(frame.payload).item).sample.step == 3
assert log_pb2.StoredItem.FromString(log_pb2.StoredItem(item=item).SerializeToString()).item == item
"""


@pytest.mark.parametrize("version", ["4.25", "5.29", "6.33", "7"])
def test_the_wire_format_works_with_protobuf(version: str, tmp_path: Path) -> None:
    wanted = f"protobuf=={version}.*" if version != "7" else "protobuf>=7,<8"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), wanted]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        unavailable(f"{wanted} cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", ROUND_TRIP, version]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
