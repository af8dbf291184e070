"""Attempts that must fail, on a real daemon with TLS and tokens: each is refused, told why, and harms nobody else."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import psutil
import pytest

from certificates import Authority
from harness import Daemon, eventually, topowatch
from sender import Sender
from topowatch_protos.v1 import ingest_pb2, run_pb2
from topowatch_protos.v1.ingest_pb2_grpc import IngestServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.xdist_group("security")  # one daemon serves most of them

CODES = grpc.StatusCode


@dataclass
class Fortress:
    """A daemon with TLS, and a token of each kind."""

    daemon: Daemon
    authority: Authority
    tokens: dict[str, dict[str, Any]]

    def credentials(self, authority: Authority | None = None) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials((authority or self.authority).pair.certificate.read_bytes())

    def sender(self, token: str | None, run: str = "run", **options: Any) -> Sender:
        text = self.tokens[token]["token"] if token in self.tokens else token
        options.setdefault("credentials", self.credentials())
        return Sender(self.daemon.grpc, run, token=text, **options)

    def get(self, path: str, token: str | None, method: str = "GET", **options: Any) -> httpx.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {self.tokens.get(token, {}).get('token', token)}"}
        headers |= options.pop("headers", {})
        context = ssl.create_default_context(cafile=self.authority.pair.certificate)
        url = f"https://{self.daemon.http}{path}"
        return httpx.request(method, url, headers=headers, verify=context, timeout=10.0, **options)

    def audit(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in (self.daemon.data_dir / "audit.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def fortress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fortress]:
    directory = tmp_path_factory.mktemp("fortress")
    authority = Authority(directory / "ca")
    pair = authority.sign("daemon")
    daemon = Daemon(directory, "--engine", "inline", "--tls-cert", str(pair.certificate), "--tls-key", str(pair.key))
    tokens = {
        "writer": daemon.token("--tenant", "vision", "--scope", "write"),
        "reader": daemon.token("--tenant", "vision", "--scope", "read"),
        "other": daemon.token("--tenant", "speech", "--scope", "read", "--scope", "write"),
        "admin": daemon.token("--tenant", "platform", "--scope", "admin"),
    }
    daemon.start()
    yield Fortress(daemon, authority, tokens)
    daemon.stop()


def refused(sender: Sender) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        sender.push(sender.batch(1))
    sender.close()
    return caught.value


def test_what_is_allowed_works(fortress: Fortress) -> None:
    for writer, reader, tenant in (("writer", "reader", "vision"), ("other", "other", "speech")):
        sender = fortress.sender(writer, "shared-name")
        sender.push_until_stored(sender.batch(5))
        sender.close()
        eventually(lambda reader=reader: fortress.get("/api/v1/runs/shared-name", reader).json().get("samples") == 5)
        assert fortress.get("/api/v1/runs/shared-name", reader).json()["tenant"] == tenant
        assert fortress.get(f"/api/v1/runs?tenant={tenant}", reader).json()["runs"] != []
        assert fortress.get("/api/v1/runs?tenant=nobody", reader).json()["runs"] == [], "theirs are not of that tenant"
    events = [(line["event"], line.get("tenant")) for line in fortress.audit()]
    assert ("token_created", "platform") in events
    assert ("started", None) in events
    assert ("stream_opened", "vision") not in events, "single batches are no streams"


@pytest.mark.parametrize("token", [None, "nonsense", "topowatch_000000000000_" + "a" * 43])
def test_without_a_token_that_is_known_nobody_writes_or_reads(fortress: Fortress, token: str | None) -> None:
    assert refused(fortress.sender(token)).code() == CODES.UNAUTHENTICATED
    for path in (
        "/metrics",
        "/api/v1/runs",
        "/api/v1/runs/x",
        "/api/v1/runs/x/shape",
        "/api/v1/groups/x/classes",
        "/api/v1/groups/x/forecast",
        "/api/v1/groups/x/map",
        "/api/v1/forecasts",
        "/none",
    ):
        answer = fortress.get(path, token)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert "token" in answer.json()["error"]


def test_probes_and_the_page_need_no_token_and_tell_nothing(fortress: Fortress) -> None:
    for path in ("/", "/-/healthy", "/-/ready"):
        answer = fortress.get(path, None)
        assert answer.status_code == 200
        assert "shared-name" not in answer.text


def test_a_token_that_reads_does_not_write_and_one_that_writes_does_not_read(fortress: Fortress) -> None:
    denied = refused(fortress.sender("reader"))
    assert denied.code() == CODES.PERMISSION_DENIED
    assert "read" in denied.details()
    slice_of = {"method": "POST", "json": {"side": 5}}
    assert fortress.get("/api/v1/runs/shared-name/slice", "reader", **slice_of).status_code == 403
    assert fortress.get("/api/v1/runs", "writer").status_code == 403
    assert refused(fortress.sender("admin")).code() == CODES.PERMISSION_DENIED


def test_a_token_that_has_expired_or_was_revoked_is_good_for_nothing(fortress: Fortress) -> None:
    made = fortress.daemon.token("--tenant", "vision")
    sender = fortress.sender(made["token"], "revoked")
    eventually(lambda: fortress.get("/api/v1/runs", made["token"]).status_code == 200)
    requests: list[ingest_pb2.StreamBatchesRequest] = []
    more = threading.Semaphore(0)

    def stream() -> Iterator[ingest_pb2.StreamBatchesRequest]:
        while True:
            more.acquire()
            yield requests.pop()

    answers = sender.stub.StreamBatches(stream(), metadata=sender.metadata)
    requests.append(ingest_pb2.StreamBatchesRequest(batch=sender.batch(3)))
    more.release()
    assert next(answers).ack.status == ingest_pb2.ACK_STATUS_STORED
    assert topowatch("token", "revoke", made["id"], "--data-dir", str(fortress.daemon.data_dir)).returncode == 0
    eventually(lambda: fortress.get("/api/v1/runs", made["token"]).status_code == 401)
    requests.append(ingest_pb2.StreamBatchesRequest(batch=sender.batch(3)))
    more.release()
    with pytest.raises(grpc.RpcError) as ended:
        next(answers)
    assert (ended.value.code(), ended.value.details()) == (CODES.UNAUTHENTICATED, "the token was revoked")
    sender.close()
    tokens = json.loads((fortress.daemon.data_dir / "tokens.json").read_text())
    for token in tokens["tokens"]:
        if token["id"] == fortress.tokens["other"]["id"]:
            token["expires_at"] = time.time() + 3.0
    (fortress.daemon.data_dir / "tokens.json").write_text(json.dumps(tokens))
    eventually(lambda: fortress.get("/api/v1/runs", "other").status_code == 401)
    assert "has expired" in refused(fortress.sender("other")).details()
    fortress.tokens["other"] = fortress.daemon.token("--tenant", "speech")
    eventually(lambda: fortress.get("/api/v1/runs", "other").status_code == 200)


def test_a_tenant_sees_nothing_of_another(fortress: Fortress) -> None:
    sender = fortress.sender("writer", "secret", group="secret-group")
    sender.push_until_stored(sender.batch(5))
    sender.close()
    eventually(lambda: fortress.get("/api/v1/runs/secret", "reader").status_code == 200)
    for path in ("/api/v1/runs", "/metrics", "/api/v1/forecasts"):
        assert "secret" in fortress.get(path, "admin").text
        assert "secret" not in fortress.get(path, "other").text
    of_run, of_group = ("", "/shape"), ("/classes", "/forecast", "/map")
    for path in (*(f"runs/secret{part}" for part in of_run), *(f"groups/secret-group{part}" for part in of_group)):
        asked = f"/api/v1/{path}?tenant=vision&group=secret-group"
        eventually(lambda asked=asked: fortress.get(asked, "reader").status_code == 200)
        assert fortress.get(asked, "other").status_code == 404
    slice_of = {"method": "POST", "json": {"side": 5}}
    assert fortress.get("/api/v1/runs/secret/slice", "other", **slice_of).status_code == 404
    assert "topowatch_ingest_samples_total" in fortress.get("/metrics", "admin").text
    assert "topowatch_ingest_samples_total" not in fortress.get("/metrics", "reader").text


def test_the_tenant_that_a_batch_names_counts_for_nothing(fortress: Fortress) -> None:
    sender = fortress.sender("other", "forged")
    sender.key.tenant = "vision"
    sender.descriptor.key.tenant = "vision"
    batch = sender.batch(2)
    sender.push(batch)
    sender.close()
    assert fortress.get("/api/v1/runs/forged", "reader").status_code == 404


def test_neither_side_talks_to_a_stranger_without_tls(fortress: Fortress, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")
    assert refused(fortress.sender("writer", credentials=fortress.credentials(stranger))).code() == CODES.UNAVAILABLE
    assert refused(fortress.sender("writer", credentials=None)).code() == CODES.UNAVAILABLE
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://{fortress.daemon.http}/-/healthy", timeout=5.0)


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "a/b", "a\\b", "", "x" * 10_000, "a\x00b", "a\nb"])
def test_a_name_that_leads_elsewhere_is_refused(fortress: Fortress, name: str) -> None:
    for names in ({"run": name}, {"run": "r", "group": name}):
        sender = fortress.sender("writer", **{"run": "r", **names})
        ack = sender.push(sender.batch(1))
        sender.close()
        assert ack.status == ingest_pb2.ACK_STATUS_INVALID
        assert "name" in ack.detail
    for path in ("..%2f..%2fetc%2fpasswd", "%2e%2e", "..%5c"):
        assert fortress.get(f"/api/v1/runs/{path}", "reader").status_code == 404


def test_a_bomb_of_labels_is_refused(fortress: Fortress) -> None:
    sender = fortress.sender("writer", "bomb")
    sender.descriptor.labels.update({f"label-{number}": f"value-{number}" for number in range(100_000)})
    ack = sender.push(sender.batch(1))
    sender.close()
    assert (ack.status, ack.detail) == (ingest_pb2.ACK_STATUS_INVALID, "over 64 labels")
    for path in ("/metrics", "/api/v1/runs"):
        told = fortress.get(path, "admin").text
        assert "bomb" not in told
        assert "value-1" not in told


def test_a_message_of_a_gigabyte_ends_its_call(fortress: Fortress) -> None:
    huge = bytes(1 << 30)
    options = [("grpc.max_send_message_length", -1)]
    with grpc.secure_channel(fortress.daemon.grpc, fortress.credentials(), options) as channel:
        call = channel.unary_unary("/topowatch.v1.IngestService/PushBatch")
        with pytest.raises(grpc.RpcError) as caught:
            call(huge, timeout=60.0, metadata=fortress.sender("writer").metadata)
    assert caught.value.code() == CODES.RESOURCE_EXHAUSTED
    still_works(fortress)


def test_a_small_message_that_unfolds_into_a_large_one_is_refused(fortress: Fortress) -> None:
    sketch = run_pb2.RunKey(group="g", run="r").SerializeToString() + bytes(15 << 20)
    assert len(gzip.compress(sketch)) < 1 << 16
    with grpc.secure_channel(fortress.daemon.grpc, fortress.credentials()) as channel:
        stub = IngestServiceStub(channel)
        batch = ingest_pb2.Batch(items=[ingest_pb2.Envelope(seq=0, item=sketch)])
        with pytest.raises(grpc.RpcError) as caught:
            stub.PushBatch(
                ingest_pb2.PushBatchRequest(batch=batch),
                timeout=20.0,
                compression=grpc.Compression.Gzip,
                metadata=fortress.sender("writer").metadata,
            )
    assert caught.value.code() in {CODES.UNIMPLEMENTED, CODES.INTERNAL}
    still_works(fortress)


def test_what_is_sent_without_a_token_is_not_even_read(fortress: Fortress) -> None:
    """Forty messages at the limit, at the same time, take next to no memory."""
    assert fortress.daemon.process is not None
    process = psutil.Process(fortress.daemon.process.pid)
    before, most = process.memory_info().rss, 0
    message = ingest_pb2.PushBatchRequest(batch=ingest_pb2.Batch(writer_uuid="x" * (15 << 20))).SerializeToString()

    def push() -> None:
        with grpc.secure_channel(fortress.daemon.grpc, fortress.credentials()) as channel:
            call = channel.unary_unary("/topowatch.v1.IngestService/PushBatch")
            with pytest.raises(grpc.RpcError) as caught:
                call(message, timeout=60.0)
            assert caught.value.code() == CODES.UNAUTHENTICATED

    threads = [threading.Thread(target=push) for _ in range(40)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most = max(most, process.memory_info().rss)
        time.sleep(0.02)
    assert most - before < 150 << 20


def test_half_of_a_request_is_not_waited_for_for_ever(inline_daemon: Daemon) -> None:
    host, _, port = inline_daemon.http.rpartition(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(50)]
    for connection in slow[:25]:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    for connection in slow:
        connection.settimeout(20.0)
        assert connection.recv(1) == b"", "the daemon has closed it"
        connection.close()


def test_a_long_body_is_refused_before_it_is_read_to_its_end(fortress: Fortress) -> None:
    sender = fortress.sender("writer", "asked")
    sender.push_until_stored(sender.batch(3))
    sender.close()
    eventually(lambda: fortress.get("/api/v1/runs/asked", "reader").status_code == 200)
    headers = {"Content-Type": "application/json"}
    long = fortress.get("/api/v1/runs/asked/slice", "writer", "POST", headers=headers, content=b" " * 2000)
    assert long.status_code == 413


def test_a_page_from_elsewhere_reads_nothing_by_a_name_that_it_gave_this_machine(inline_daemon: Daemon) -> None:
    url = f"http://{inline_daemon.http}/api/v1/runs"
    for host, status in (("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:7071", 200), ("evil.example", 403)):
        assert httpx.get(url, headers={"Host": host}).status_code == status


def still_works(fortress: Fortress) -> None:
    sender = fortress.sender("writer", f"after-{time.monotonic_ns()}")
    sender.push_until_stored(sender.batch(1))
    sender.close()


def test_clients_need_a_certificate_where_a_ca_for_them_is_named(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "stranger")
    pair, mine, theirs = authority.sign("daemon"), authority.sign("trainer"), stranger.sign("trainer")
    ca = authority.pair.certificate
    tls = ("--tls-cert", pair.certificate, "--tls-key", pair.key, "--tls-client-ca", ca)
    daemon = Daemon(tmp_path, "--engine", "inline", *map(str, tls)).start()
    try:
        for client, let_in in ((None, False), (theirs, False), (mine, True)):
            key, certificate = (None, None) if client is None else client.read()
            sender = Sender(
                daemon.grpc, "run", credentials=grpc.ssl_channel_credentials(ca.read_bytes(), key, certificate)
            )
            context = ssl.create_default_context(cafile=ca)
            if client is not None:
                context.load_cert_chain(client.certificate, client.key)
            url = f"https://{daemon.http}/-/healthy"
            if let_in:
                sender.push_until_stored(sender.batch(1))
                assert httpx.get(url, verify=context).status_code == 200
            else:
                with pytest.raises(grpc.RpcError):
                    sender.push(sender.batch(1), timeout=5.0)
                with pytest.raises(httpx.TransportError):
                    httpx.get(url, verify=context, timeout=5.0)
            sender.close()
    finally:
        daemon.stop()


def test_an_authority_that_is_taken_out_lets_nobody_in_any_more(tmp_path: Path) -> None:
    """Without a restart, over gRPC and HTTP, and not with a session from before either."""
    staying, going = Authority(tmp_path / "staying"), Authority(tmp_path / "going")
    pair, trusted = staying.sign("daemon"), tmp_path / "clients.pem"
    clients = {authority: authority.sign("trainer") for authority in (staying, going)}
    trusted.write_bytes(staying.pair.certificate.read_bytes() + going.pair.certificate.read_bytes())
    tls = ("--tls-cert", pair.certificate, "--tls-key", pair.key, "--tls-client-ca", trusted)
    daemon = Daemon(tmp_path, "--engine", "inline", *map(str, tls)).start()
    contexts = {}
    for authority, client in clients.items():
        contexts[authority] = ssl.create_default_context(cafile=staying.pair.certificate)
        contexts[authority].load_cert_chain(client.certificate, client.key)
    sessions: dict[Authority, ssl.SSLSession | None] = {}

    def over_http(authority: Authority) -> bool:
        host, _, port = daemon.http.rpartition(":")
        try:
            with (
                socket.create_connection((host, int(port)), timeout=5.0) as plain,
                contexts[authority].wrap_socket(
                    plain, server_hostname=host, session=sessions.get(authority)
                ) as connection,
            ):
                connection.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                answered = connection.recv(64).startswith(b"HTTP/1.1 200")
                sessions.setdefault(authority, connection.session)
        except (ssl.SSLError, ConnectionError):
            return False
        return answered

    def over_grpc(authority: Authority) -> bool:
        ca = staying.pair.certificate.read_bytes()
        sender = Sender(daemon.grpc, "run", credentials=grpc.ssl_channel_credentials(ca, *clients[authority].read()))
        try:
            sender.push(sender.batch(1), timeout=5.0)
        except grpc.RpcError:
            return False
        finally:
            sender.close()
        return True

    try:
        for reaches in (over_http, over_grpc):
            assert [reaches(authority) for authority in clients] == [True, True]
        trusted.write_bytes(staying.pair.certificate.read_bytes())
        for reaches in (over_http, over_grpc):
            eventually(lambda reaches=reaches: not reaches(going))
            assert reaches(staying)
    finally:
        daemon.stop()


def test_a_certificate_that_is_replaced_is_taken_over(tmp_path: Path) -> None:
    """Without a restart, and half a replacement changes nothing."""
    before, after = Authority(tmp_path / "before"), Authority(tmp_path / "after")
    old, new = before.sign("daemon"), after.sign("daemon")
    live = (tmp_path / "live.pem", tmp_path / "live.key")
    for source, target in zip(old, live, strict=True):
        target.write_bytes(source.read_bytes())
    daemon = Daemon(tmp_path, "--engine", "inline", "--tls-cert", str(live[0]), "--tls-key", str(live[1])).start()

    def trusts(authority: Authority) -> bool:
        ca = authority.pair.certificate
        sender = Sender(daemon.grpc, "run", credentials=grpc.ssl_channel_credentials(ca.read_bytes()))
        try:
            sender.push(sender.batch(1), timeout=5.0)
            over_http = httpx.get(f"https://{daemon.http}/-/healthy", verify=ssl.create_default_context(cafile=ca))
        except (grpc.RpcError, httpx.TransportError):
            return False
        finally:
            sender.close()
        return over_http.status_code == 200

    try:
        assert (trusts(before), trusts(after)) == (True, False)
        live[0].write_bytes(new.certificate.read_bytes())
        eventually(lambda: "going on with the certificate from before" in daemon.journal())
        assert trusts(before)
        live[1].write_bytes(new.key.read_bytes())
        eventually(lambda: trusts(after))
        assert not trusts(before)
    finally:
        daemon.stop()


def test_a_daemon_does_not_listen_to_the_world_without_tls_and_tokens(tmp_path: Path) -> None:
    data = tmp_path / "data"
    arguments = ("serve", "--engine", "inline", "--data-dir", str(data), "--grpc", "0.0.0.0:0", "--http", "127.0.0.1:0")
    started = topowatch(*arguments)
    assert started.returncode == 2
    for said in ("grpc listens on 0.0.0.0", "tls_cert", "topowatch token create", "--insecure"):
        assert said in started.stderr
    assert "Traceback" not in started.stderr


def test_commands_take_the_token_of_their_user(fortress: Fortress) -> None:
    url = f"https://{fortress.daemon.http}"
    ca = str(fortress.authority.pair.certificate)
    assert "TOPOWATCH_TLS_CA" in topowatch("runs", "--url", url).stderr
    denied = topowatch("runs", "--url", url, TOPOWATCH_TLS_CA=ca)
    assert denied.returncode == 2
    assert "TOPOWATCH_TOKEN" in denied.stderr
    admin = fortress.tokens["admin"]["token"]
    assert topowatch("runs", "--url", url, TOPOWATCH_TLS_CA=ca, TOPOWATCH_TOKEN=admin).returncode == 0
    sent = topowatch(
        "simulate", "--runs", "1", "--samples", "5", "--endpoint", fortress.daemon.grpc,
        TOPOWATCH_TLS_CA=ca, TOPOWATCH_TOKEN=fortress.tokens["writer"]["token"],
    )  # fmt: skip
    assert sent.returncode == 0, sent.stderr
    listed = topowatch("token", "list", "--data-dir", str(fortress.daemon.data_dir))
    assert fortress.tokens["admin"]["id"] in listed.stdout
    assert "topowatch_" not in listed.stdout
