"""A writer whose predictions follow a planned path, and that tells its result at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from group_runs import DIGEST
from sender import Sender
from topowatch_protos.v1 import sample_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from harness import Daemon

DIMS = 8


class Planned(Sender):
    """Sends the predictions of a path, and nothing else."""

    def __init__(self, daemon: Daemon, run: str, path: NDArray[Any], *, group: str, accuracy: float = 0.9) -> None:
        super().__init__(daemon.grpc, run, group=group)
        self.descriptor.sketch.dimension = DIMS
        self.descriptor.probe.digest = DIGEST
        self.path = path
        self.items = self._planned(path, accuracy)

    def send(self, *, end: bool) -> None:
        self.push_until_stored(self.batch(len(self.path) + end))
        self.close()

    def _planned(self, path: NDArray[Any], accuracy: float) -> Iterator[bytes]:
        for step, point in enumerate(path):
            sample = sample_pb2.Sample(step=step)
            sample.predictions.sketch.values = point.astype("<f4").tobytes()
            yield sample_pb2.Item(schema=1, sample=sample).SerializeToString()
        end = sample_pb2.RunEnd(step=len(path) - 1, results={"accuracy": accuracy})
        yield sample_pb2.Item(schema=1, end=end).SerializeToString()
