"""What a daemon may be reached from, what an auditor reads, what a tenant may have."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topowatch_monitor.access.audit import DENIED, NAME, Audit
from topowatch_monitor.access.exposure import is_loopback, refusal
from topowatch_monitor.ingest.limits import Limits
from topowatch_monitor.ingest.quota import Quotas

if TYPE_CHECKING:
    from pathlib import Path

EVERYWHERE = "0.0.0.0"  # noqa: S104 - never bound here


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("LOCALHOST", True),
        (EVERYWHERE, False), ("::", False), ("10.0.0.7", False), ("fe80::1%eth0", False), ("monitor", False),
    ],
)  # fmt: skip
def test_only_this_machine_reaches_a_loopback_address(host: str, local: bool) -> None:
    assert is_loopback(host) == local


@pytest.mark.parametrize(
    ("host", "tls", "tokens", "said"),
    [
        ("127.0.0.1", False, False, None),
        (EVERYWHERE, True, True, None),
        (EVERYWHERE, False, True, "tls_cert"),
        (EVERYWHERE, True, False, "topowatch token create"),
    ],
)
def test_beyond_this_machine_a_daemon_needs_tls_and_tokens(
    host: str, tls: bool, tokens: bool, said: str | None
) -> None:
    for name in ("grpc", "http"):
        listening = {"grpc": "127.0.0.1", "http": "127.0.0.1", name: host}
        why = refusal(listening, tls=tls, tokens=tokens, tokens_file="/data/tokens.json")
        if said is None:
            assert why is None
        else:
            assert why is not None
            assert name in why
            assert said in why
            assert "--insecure" in why


def test_what_repeats_itself_is_counted_in_the_audit(tmp_path: Path) -> None:
    moment = [1_800_000_000.0]
    audit = Audit(tmp_path, wall=lambda: moment[0], monotonic=lambda: moment[0])
    for number in range(1000):
        audit.deny("http", "10.0.0.7", "a token is needed", path=f"/{number}" * 10_000, token=f"{number:012x}")
    audit.deny("http", "10.0.0.8", "a token is needed")
    moment[0] += 10.0
    audit.deny("http", "10.0.0.7", "a token is needed")
    audit.close()
    assert audit.denied == {"grpc": 0, "http": 1002}
    assert not (tmp_path / NAME).exists(), "whoever is not let in pushes nothing else out"
    lines = [json.loads(line) for line in (tmp_path / DENIED).read_text().splitlines()]
    assert len(lines[0]["path"]) <= 200
    assert [(line["peer"][-1], line.get("times_before")) for line in lines] == [("7", None), ("8", None), ("7", "999")]
    assert lines[0]["at"] == "2027-01-15T08:00:00+00:00"


def test_a_limit_that_holds_up_many_is_one_line_of_the_audit_and_pushes_no_other_out(tmp_path: Path) -> None:
    moment = [0.0]
    senders = [{"tenant": "a", "token": "1"}, {"tenant": "b", "token": "2"}]
    audit = Audit(tmp_path, wall=lambda: moment[0], monotonic=lambda: moment[0])
    for second in range(11):
        moment[0] = float(second)
        for host in range(100):
            audit.limit(f"10.0.0.{host}", "tenant a has 2 streams open", **senders[0])
    audit.limit("10.0.0.1", "tenant a may have 3 live runs", **senders[0])
    audit.limit("10.0.0.1", "tenant b has 2 streams open", **senders[1])
    audit.close()
    lines = [json.loads(line) for line in (tmp_path / NAME).read_text().splitlines()]
    assert {line["event"] for line in lines} == {"limit_reached"}
    assert [(line["tenant"], line["why"][9:12], line.get("times_before")) for line in lines] == [
        ("a", "has", None), ("a", "has", "999"), ("a", "may", None), ("b", "has", None)
    ]  # fmt: skip
    assert (lines[0]["peer"], lines[0]["token"]) == ("10.0.0.0", "1")


def test_a_line_of_the_audit_cannot_be_broken_by_what_a_stranger_sends(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    audit.deny("http", "10.0.0.7", "no", path='/\n{"event": "forged"}')
    audit.close()
    [line] = (tmp_path / DENIED).read_text().splitlines()
    assert json.loads(line)["event"] == "denied"


@given(
    batches=st.lists(st.tuples(st.floats(0, 2), st.integers(1, 300)), min_size=1, max_size=200),
    rate=st.integers(1, 1000),
)
def test_no_tenant_gets_more_than_its_rate(batches: list[tuple[float, int]], rate: int) -> None:
    """Beyond a second's worth, and the batch that was under way."""
    quotas = Quotas(Limits(tenant_samples_per_second=rate))
    now, taken, largest = 0.0, 0, 0
    for pause, items in batches:
        now += pause
        if quotas.take("a", items, 1, now) is None:
            taken, largest = taken + items, max(largest, items)
        assert taken <= rate * (now + 1.0) + largest + 1e-6


@given(items=st.integers(1, 10_000), rate=st.integers(1, 1000))
def test_who_waits_as_long_as_told_is_let_in(items: int, rate: int) -> None:
    quotas, now = Quotas(Limits(tenant_samples_per_second=rate)), 0.0
    for _ in range(5):
        refused = quotas.take("a", items, 1, now)
        if refused is not None:
            assert str(rate) in refused[0]
            now += refused[1] + 1e-6
            refused = quotas.take("a", items, 1, now)
        assert refused is None


def test_one_tenant_does_not_use_up_what_is_anothers() -> None:
    quotas = Quotas(Limits(tenant_samples_per_second=10, tenant_streams=2))
    assert quotas.take("a", 1000, 1, 0.0) is None
    assert quotas.take("a", 1, 1, 0.0) is not None
    assert quotas.take("b", 1, 1, 0.0) is None
    assert [quotas.open_stream("a", 0.0) is None for _ in range(3)] == [True, True, False]
    assert quotas.open_stream("b", 0.0) is None
    quotas.close_stream("a")
    assert quotas.open_stream("a", 0.0) is None
