"""What a tenant may have, on a daemon with small limits: each is the one that was set, audited and harms no other."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING

import grpc
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness import Daemon, eventually
from sender import Sender
from topowatch_monitor.access import token_file
from topowatch_monitor.access.tokens import ADMIN, WRITE, mint
from topowatch_protos.v1 import ingest_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.samples import Sample

pytestmark = pytest.mark.xdist_group("tenant_limits")  # one daemon serves all

LIMITS = {
    "tenant_max_runs": 5,
    "tenant_max_streams": 3,
    "tenant_max_samples_per_second": 100,
    "tenant_max_bytes_per_second": 200_000,
    "tenant_max_series": 20,
}
SERVICE = "/topowatch.v1.IngestService"
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


class Strict:
    """A daemon with these limits, and a token for each tenant, of which `calm` sees everything."""

    def __init__(self, daemon: Daemon) -> None:
        self.tokens: dict[str, str] = {}
        with token_file.changing(daemon.data_dir / token_file.NAME) as tokens:
            for tenant in ("silent", "items", "bytes", "names", "calm"):
                kept, self.tokens[tenant] = mint(tenant, [WRITE, *([ADMIN] * (tenant == "calm"))], now=time.time())
                tokens[kept.id] = kept
        self.daemon = daemon.start()
        self.calm = self.sender("calm", "calm")

    def sender(self, tenant: str, run: str, group: str = "tests") -> Sender:
        return Sender(self.daemon.grpc, run, group=group, token=self.tokens[tenant])

    def series(self) -> list[Sample]:
        headers = {"Authorization": f"Bearer {self.tokens['calm']}"}
        answer = httpx.get(f"http://{self.daemon.http}/metrics", headers=headers, timeout=10.0).raise_for_status()
        return [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]

    def audited(self, tenant: str) -> set[str]:
        """The limits that a tenant has reached, in words."""
        lines = [json.loads(line) for line in (self.daemon.data_dir / "audit.jsonl").read_text().splitlines()]
        return {line["why"] for line in lines if line["event"] == "limit_reached" and line["tenant"] == tenant}

    def others_go_on(self) -> None:
        assert self.calm.push(self.calm.batch(1)).status == ingest_pb2.ACK_STATUS_STORED


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strict]:
    directory = tmp_path_factory.mktemp("strict")
    config = directory / "strict.toml"
    config.write_text("".join(f"{name} = {value}\n" for name, value in LIMITS.items()))
    daemon = Daemon(directory, "--engine", "inline", "--config", str(config))
    strict = Strict(daemon)
    yield strict
    strict.calm.close()
    daemon.stop()


def why_refused(sender: Sender, batch: ingest_pb2.Batch) -> str:
    """What a stream of one batch is told when it may not be opened; empty once its batch is stored."""
    requests = iter([ingest_pb2.StreamBatchesRequest(batch=batch)])
    try:
        [answer] = sender.stub.StreamBatches(requests, metadata=sender.metadata, timeout=10.0)
    except grpc.RpcError as error:
        if error.code() != EXHAUSTED:
            raise
        return str(error.details())
    assert answer.ack.status == ingest_pb2.ACK_STATUS_STORED
    return ""


def test_calls_that_bring_nothing_count_whether_they_are_streams_or_single_batches(strict: Strict) -> None:
    silent, honest = strict.sender("silent", "silent"), strict.sender("silent", "honest")
    silence, batch = threading.Event(), honest.batch(1)

    def says_nothing() -> Iterator[bytes]:
        silence.wait()
        yield from ()

    kinds = [silent.channel.stream_stream(f"{SERVICE}/{name}") for name in ("StreamBatches", "PushBatch")]
    calls = [call(says_nothing(), metadata=silent.metadata) for call in kinds * 2]
    full = "tenant silent has 3 streams open, as many as it may: close some"
    [refused] = eventually(lambda: [call for call in calls if not call.is_active()])
    assert (refused.code(), refused.details()) == (EXHAUSTED, full)
    assert why_refused(honest, batch) == full
    with pytest.raises(grpc.RpcError) as caught:
        honest.push(batch)
    assert (caught.value.code(), caught.value.details()) == (EXHAUSTED, full)
    strict.others_go_on()
    assert strict.audited("silent") == {full}
    for call in calls:
        call.cancel()
    silence.set()
    eventually(lambda: why_refused(honest, batch) == "")
    silent.close()
    honest.close()


@pytest.mark.parametrize(
    ("tenant", "items", "limit"),
    [("items", [b""] * 6000, "100 items"), ("bytes", [bytes(7 << 20)], "200000 bytes")],
    ids=["items", "bytes"],
)
def test_who_sends_too_much_in_a_second_is_told_how_long_to_wait(
    strict: Strict, tenant: str, items: list[bytes], limit: str
) -> None:
    sender = strict.sender(tenant, "run")
    burst = sender.batch(0)
    burst.items.extend(ingest_pb2.Envelope(seq=seq, item=item) for seq, item in enumerate(items))
    assert sender.push(burst).status == ingest_pb2.ACK_STATUS_STORED, "a burst is paid for afterwards"
    ack = sender.push(burst)
    assert ack.status == ingest_pb2.ACK_STATUS_RESOURCE_EXHAUSTED
    assert ack.detail == f"tenant {tenant} sends over {limit} a second: wait"
    assert 10 < ack.retry_after.seconds < 60
    sender.close()
    strict.others_go_on()
    assert strict.audited(tenant) == {ack.detail}


def test_a_bomb_of_names_groups_and_label_values_over_many_runs_stays_small(strict: Strict) -> None:
    strict.others_go_on()
    acks: list[ingest_pb2.Ack] = []
    for number in range(60):
        sender = strict.sender("names", f"run-{number}", f"group-{number}")
        sender.descriptor.labels[f"label-{number}"] = f"value-{number}"
        acks.append(sender.push(sender.batch(1)))
        sender.close()
    full = "tenant names may have 5 live runs: try again when one has ended"
    assert [ack.status for ack in acks[:5]] == [ingest_pb2.ACK_STATUS_STORED] * 5
    assert {(ack.status, ack.detail) for ack in acks[5:]} == {(ingest_pb2.ACK_STATUS_RESOURCE_EXHAUSTED, full)}
    assert strict.audited("names") == {full}

    def of(tenant: str) -> list[Sample]:
        return [one for one in strict.series() if one.labels.get("tenant") == tenant]

    eventually(lambda: len(of("names")) == LIMITS["tenant_max_series"])
    assert {one.labels["group"] for one in of("names")} <= {f"group-{number}" for number in range(5)}
    [dropped] = [one.value for one in strict.series() if one.name == "topowatch_series_dropped_total"]
    assert dropped > 0
    assert "topowatch_run_info" in {one.name for one in of("calm")}
