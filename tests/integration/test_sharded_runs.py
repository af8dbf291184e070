"""A sharded run beside its unsharded twin, on both engines, one of which is killed in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from harness import Daemon, eventually, topowatch
from sender import Sender

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RANKS = 3
WHOLE = "whole-141"  # H₁ and shape are computed at samples that the name decides: at the same ones as of `sharded`


def done(*arguments: str) -> None:
    ended = topowatch(*arguments)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def table_of(daemon: Daemon, run: str, directory: Path) -> dict[str, list[Any]]:
    file = directory / f"{run}.parquet"
    done("export", run, str(file), "--data-dir", str(daemon.data_dir))
    return pq.read_table(file).to_pydict()


@pytest.mark.parametrize("engine", ["inline", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_sharded_run_has_the_path_of_the_whole_model(
    engine: str, make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """Ranks send at their own pace; rank 2 stops for a while, and its rest comes after the daemon was killed."""
    daemon = make_daemon("--engine", engine, *(["--shards", "2"] if engine == "ray" else []))
    twin = Sender(daemon.grpc, WHOLE, seed=7)
    ranks = [Sender(daemon.grpc, "sharded", seed=7, rank=rank, ranks=RANKS) for rank in range(RANKS)]
    twin.push_until_stored(twin.batch(90))
    for rank, size in ((1, 40), (2, 20), (0, 60), (1, 20)):
        ranks[rank].push_until_stored(ranks[rank].batch(size))
    seen = eventually(lambda: (found := daemon.run("sharded"))["path"]["points"] == 20 and found, within=120)
    assert seen["ranks"] == {"contributing": RANKS, "heard": RANKS, "missing": []}
    assert (seen["step"], seen["samples"], seen["incomplete"]) == (59, 140, 0)
    if engine == "inline":
        daemon.kill()
        daemon.start()
    for rank, size in ((2, 40), (0, 30), (2, 30), (1, 30)):
        ranks[rank].push_until_stored(ranks[rank].batch(size))
    seen, whole = (
        eventually(lambda run=run: (found := daemon.run(run))["path"]["points"] == 90 and found, within=120)
        for run in ("sharded", WHOLE)
    )
    for name in ("path", "representation", "loss_path", "loss", "flags", "results"):
        assert seen[name] == whole[name], name
    for sender in (twin, *ranks):
        sender.close()
    if engine == "ray":
        return  # files are made without an engine
    recording = str(tmp_path / "sharded.twrun")
    done("export", "sharded", recording, "--data-dir", str(daemon.data_dir))
    done("replay", recording, "--verify", "--url", f"http://{daemon.http}")
    tables = [table_of(daemon, run, tmp_path) for run in (WHOLE, "sharded")]
    assert tables[1]["step"] == list(range(90))
    for name in ("step", "weights", "representation", "loss"):
        assert tables[1][name] == tables[0][name], name
    assert tables[1]["weight_norm"][-1] == pytest.approx(seen["scalars"]["weight_norm"], rel=1e-12)
