"""Runs that were silent for long are forgotten, their records leave the log, and nothing of the others changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from harness import Daemon, eventually
from sender import Sender
from topowatch_monitor.commands.records import log_records, of_run
from topowatch_monitor.engine.run_state import RunState
from topowatch_monitor.store.log import segment_starts
from topowatch_protos.v1 import ingest_pb2, sample_pb2

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DAYS = 20.0 / 86_400  # seconds; the commands of the test take some of them


def end(sender: Sender) -> None:
    item = sample_pb2.Item(schema=1, end=sample_pb2.RunEnd(step=sender.next_seq, results={"test_accuracy": 0.9}))
    batch = sender.batch(0)
    batch.items.append(ingest_pb2.Envelope(seq=sender.next_seq, item=item.SerializeToString()))
    sender.next_seq += 1
    sender.push_until_stored(batch)


@pytest.mark.parametrize(
    "engine", ["inline", pytest.param("ray", marks=[pytest.mark.slow, pytest.mark.xdist_group("ray")])]
)
def test_what_is_old_goes_and_what_is_live_stays_whole(
    make_daemon: Callable[..., Daemon], tmp_path: Path, engine: str
) -> None:
    config = tmp_path / "short.toml"
    config.write_text(f"retention_days = {DAYS}\nsegment_bytes = 65536\nsnapshot_seconds = 1000\n")
    daemon = make_daemon("--engine", engine, "--config", str(config))
    live, old = Sender(daemon.grpc, "live", seed=1), Sender(daemon.grpc, "old", seed=2, group="gone")
    live.push_until_stored(live.batch(300))
    for _ in range(4):
        old.push_until_stored(old.batch(400))
    end(old)
    whole = daemon.metric("topowatch_log_bytes")
    eventually(lambda: daemon.run("old")["state"] == "ended")

    def one_more() -> bool:
        live.push_until_stored(live.batch(5))
        return not any(run["run"] == "old" for run in daemon.get("/api/v1/runs")["runs"])

    eventually(one_more, every=0.5)
    eventually(lambda: one_more() and daemon.metric("topowatch_log_bytes") < 0.6 * whole, every=0.5)
    assert "gone" not in httpx.get(f"http://{daemon.http}/metrics").text
    assert httpx.get(f"http://{daemon.http}/api/v1/groups/gone/classes").status_code == 404
    verified(daemon, live)
    daemon.kill()
    daemon.start()
    live.push_until_stored(live.batch(5))
    eventually(lambda: daemon.run("live")["samples"] == len(live.acked))
    assert [run["run"] for run in daemon.get("/api/v1/runs")["runs"]] == ["live"]
    verified(daemon, live)
    again = Sender(daemon.grpc, "old", seed=3, group="gone")
    again.push_until_stored(again.batch(7))
    eventually(lambda: daemon.run("old")["samples"] == 7)
    assert daemon.run("old")["step"] == 6
    for sender in (live, old, again):
        sender.close()


def verified(daemon: Daemon, live: Sender) -> None:
    """What the daemon tells of the live run is what its log says of it."""

    def caught_up() -> bool:
        if daemon.run("live").get("analysed") == len(live.acked):
            return True
        live.push_until_stored(live.batch(1))  # while Ray starts; a run that is silent would be forgotten
        return False

    eventually(caught_up, every=1.0)
    run = RunState("default", "tests", "live")
    for record in of_run(log_records(daemon.data_dir), run.key):
        run.apply(record.kind, record.payload)
    view, seen = run.view(), daemon.run("live")
    assert (view["samples"], view["step"], view["labels"]) == (len(live.acked), max(live.acked), {"seed": "1"})
    for name in view["path"].keys() - {"e_alpha"}:
        assert seen["path"][name] == pytest.approx(view["path"][name], rel=1e-6), name


def test_without_a_limit_nothing_leaves_the_log(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    config = tmp_path / "small.toml"
    config.write_text("segment_bytes = 65536\n")
    daemon = make_daemon("--engine", "inline", "--config", str(config))
    sender = Sender(daemon.grpc, "run")
    sender.push_until_stored(sender.batch(500))
    sender.close()
    names = [path.name for path in (daemon.data_dir / "log").iterdir()]
    assert segment_starts(names)[0] == 0
    assert "run_forgotten" not in daemon.journal()
