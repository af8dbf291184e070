"""`topowatch doctor` against real servers that are wrong in every way that people get them wrong: one sentence each."""

from __future__ import annotations

import contextlib
import http.server
import importlib.metadata
import json
import socket
import socketserver
import threading
from concurrent import futures
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from certificates import Authority
from topowatch_client import messages, spool
from topowatch_client.cli import main
from topowatch_client.spawn import SpoolLock
from topowatch_protos.v1 import sample_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SERVING = b"\x08\x01"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOPOWATCH_SPOOL_DIR", str(tmp_path / "spool"))
    for name in ("MODE", "TOKEN", "TOKEN_FILE", "TLS_CA", "TLS_CERT", "TLS_KEY"):
        monkeypatch.delenv(f"TOPOWATCH_{name}", raising=False)
    monkeypatch.setattr("topowatch_client.doctor._SECONDS", 2.0)


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Start a server whose two services answer with the given bytes, or fail with the given code."""
    servers: list[grpc.Server] = []

    def answering(answer: bytes | grpc.StatusCode) -> grpc.RpcMethodHandler:
        def handle(_request: bytes, context: grpc.ServicerContext) -> bytes:
            if isinstance(answer, bytes):
                return answer
            context.abort(answer, "no")
            raise AssertionError

        return grpc.unary_unary_rpc_method_handler(handle)

    def start(
        health: bytes | grpc.StatusCode = SERVING,
        ingest: bytes | grpc.StatusCode = b"",
        credentials: grpc.ServerCredentials | None = None,
    ) -> str:
        server = grpc.server(futures.ThreadPoolExecutor(1))
        for service, method, answer in (
            ("grpc.health.v1.Health", "Check", health),
            ("topowatch.v1.IngestService", "PushBatch", ingest),
        ):
            handlers = {method: answering(answer)}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(0).wait()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "ours")


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set variables of the environment: `settings(TLS_CA=path)`."""

    def put(**values: object) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"TOPOWATCH_{name}", str(value))

    return put


def examine(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, tuple[bool, str]]]:
    status = main(["doctor", "--json", *arguments])
    checks = json.loads(capsys.readouterr().out)
    return status, {check["name"]: (check["ok"], check["detail"]) for check in checks}


def complaint(capsys: pytest.CaptureFixture[str], endpoint: str, name: str) -> str:
    """What is said of the one thing that is wrong; it is a single sentence."""
    status, checks = examine(capsys, "--endpoint", endpoint)
    wrong = [found for found, (ok, _) in checks.items() if not ok]
    assert (status, wrong) == (1, [name]), checks
    detail = checks[name][1]
    assert detail.endswith(".")
    assert ". " not in detail
    return detail


def test_all_is_well(serve: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    status, checks = examine(capsys, "--endpoint", serve())
    assert status == 0
    names = "python torch settings spool forwarder credentials address connection protocol daemon ingest"
    assert " ".join(checks) == names
    assert all(ok for ok, _ in checks.values())
    assert importlib.metadata.version("torch") in checks["torch"][1]


@pytest.mark.parametrize(
    ("answer", "advice"),
    [
        (b"\x08\x02", "not serving"),
        (grpc.StatusCode.UNAUTHENTICATED, "set TOPOWATCH_TOKEN"),
        (grpc.StatusCode.UNIMPLEMENTED, "something other than topowatch"),
        (grpc.StatusCode.INTERNAL, "check that the port is the daemon's"),
    ],
)
def test_a_daemon_that_does_not_serve_is_explained(
    serve: Callable[..., str], capsys: pytest.CaptureFixture[str], answer: bytes | grpc.StatusCode, advice: str
) -> None:
    assert advice in complaint(capsys, serve(answer), "daemon")


def test_a_daemon_that_is_healthy_and_does_not_let_us_write_is_explained(
    serve: Callable[..., str], settings: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    for code, token, advice in (
        (grpc.StatusCode.UNAUTHENTICATED, None, "set TOPOWATCH_TOKEN"),
        (grpc.StatusCode.UNIMPLEMENTED, None, "something other than topowatch"),
        (grpc.StatusCode.UNAUTHENTICATED, "old", "replace the token"),
        (grpc.StatusCode.PERMISSION_DENIED, "reader", "get a token that may"),
    ):
        if token:
            settings(TOKEN=token)
        assert advice in complaint(capsys, serve(ingest=code), "ingest")


def test_token_files_that_cannot_be_used_are_explained(
    settings: Callable[..., None], serve: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, content in (("missing", None), ("empty", b" \n"), ("binary", b"\xff\x00")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        settings(TOKEN_FILE=tmp_path / name)
        assert "correct TOPOWATCH_TOKEN_FILE" in complaint(capsys, serve(), "credentials")


def test_tls_files_that_cannot_be_used_are_explained(
    settings: Callable[..., None], serve: Callable[..., str], capsys: pytest.CaptureFixture[str], authority: Authority
) -> None:
    one, two = authority.sign("one"), authority.sign("two")
    settings(TLS_CA=authority.pair.certificate, TLS_CERT=one.certificate, TLS_KEY=two.key)
    assert "is not the key of" in complaint(capsys, serve(), "credentials")
    settings(TLS_KEY="/nowhere")
    assert "cannot be read" in complaint(capsys, serve(), "credentials")
    settings(TLS_CA=one.key, TLS_KEY=one.key)
    assert "name the right files" in complaint(capsys, serve(), "credentials")


def test_mutual_tls_that_works(
    settings: Callable[..., None], serve: Callable[..., str], capsys: pytest.CaptureFixture[str], authority: Authority
) -> None:
    own = authority.sign("client")
    settings(TLS_CA=authority.pair.certificate, TLS_CERT=own.certificate, TLS_KEY=own.key)
    status, checks = examine(capsys, "--endpoint", serve(credentials=mutual(authority)))
    assert status == 0, checks
    assert checks["protocol"][1] == "HTTP/2 over TLS"


def mutual(authority: Authority) -> grpc.ServerCredentials:
    trusted = authority.pair.certificate.read_bytes()
    return grpc.ssl_server_credentials([authority.sign("server").read()], trusted, require_client_auth=True)


def test_certificates_that_do_not_fit_are_explained(
    settings: Callable[..., None],
    serve: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    authority: Authority,
    tmp_path: Path,
) -> None:
    stranger = Authority(tmp_path / "theirs")
    for pair, advice in (
        (stranger.sign("server"), "did not sign the daemon's certificate"),
        (authority.sign("old", days=-1), "has expired"),
        (authority.sign("other", "DNS:daemon.example"), "is for another name"),
    ):
        settings(TLS_CA=authority.pair.certificate)
        endpoint = serve(credentials=grpc.ssl_server_credentials([pair.read()]))
        assert advice in complaint(capsys, endpoint, "protocol")
    assert "wants a certificate of ours" in complaint(capsys, serve(credentials=mutual(authority)), "protocol")
    for own in (stranger.sign("client"), authority.sign("client-old", days=-1)):
        settings(TLS_CERT=own.certificate, TLS_KEY=own.key)
        assert f"refuses {own.certificate}" in complaint(capsys, serve(credentials=mutual(authority)), "protocol")


def test_tls_on_one_side_only_is_explained(
    settings: Callable[..., None], serve: Callable[..., str], capsys: pytest.CaptureFixture[str], authority: Authority
) -> None:
    simple = grpc.ssl_server_credentials([authority.sign("server").read()])
    for credentials in (simple, mutual(authority)):
        assert "speaks TLS and we do not" in complaint(capsys, serve(credentials=credentials), "protocol")
    settings(TLS_CA=authority.pair.certificate)
    assert "does not speak TLS and we do" in complaint(capsys, serve(), "protocol")


class Banner(socketserver.BaseRequestHandler):
    """Says who it is before it is asked, like an SSH server."""

    def handle(self) -> None:
        self.request.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        self.request.recv(100)


class HangUp(socketserver.BaseRequestHandler):
    """Closes at once, like a proxy without a back end."""


@pytest.mark.parametrize(
    ("handler", "advice"),
    [
        (http.server.BaseHTTPRequestHandler, "a web server or proxy answers"),
        (Banner, "b'SSH-2.0-O'"),
        (HangUp, "it hangs up"),
    ],
)
def test_something_else_on_the_port_is_explained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, handler: Any, advice: str
) -> None:
    monkeypatch.setattr(http.server.BaseHTTPRequestHandler, "log_message", lambda *_: None)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            assert advice in complaint(capsys, f"127.0.0.1:{server.server_address[1]}", "protocol")
        finally:
            server.shutdown()
            thread.join()


def test_silence_is_not_mistaken_for_health(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something that accepts connections and never speaks is no daemon; one that does not even accept is not there."""
    monkeypatch.setattr("topowatch_client.doctor._SECONDS", 0.3)
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        listener.settimeout(0.05)
        enough = threading.Event()

        def accept() -> None:
            while not enough.is_set():
                with contextlib.suppress(TimeoutError):
                    stack.enter_context(listener.accept()[0])

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            assert "says nothing for" in complaint(capsys, f"127.0.0.1:{address[1]}", "protocol")
        finally:
            enough.set()
            accepting.join()
        for _ in range(3):  # a full queue of connections drops what comes, like a firewall
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        assert "check firewall" in complaint(capsys, f"127.0.0.1:{address[1]}", "connection")


def test_a_port_where_nothing_listens_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert "topowatch serve" in complaint(capsys, "127.0.0.1:1", "connection")


def test_a_host_that_does_not_resolve_is_explained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise OSError("name not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    assert "does not resolve" in complaint(capsys, "daemon.invalid:7070", "address")


def test_settings_that_jobs_would_stumble_over_are_explained(
    settings: Callable[..., None], capsys: pytest.CaptureFixture[str], serve: Callable[..., str], tmp_path: Path
) -> None:
    endpoint = serve()
    settings(MODE="disabled")
    assert "unset TOPOWATCH_MODE" in complaint(capsys, endpoint, "settings")
    settings(MODE="sometimes")
    status, checks = examine(capsys)
    assert status == 1
    assert "one of online, offline, disabled" in checks["settings"][1]
    settings(MODE="offline")
    assert "until `topowatch sync`" in examine(capsys, "--endpoint", endpoint)[1]["settings"][1]
    settings(MODE="online", SPOOL_MAX_BYTES=1 << 50)
    assert "make room or lower spool_max_bytes" in complaint(capsys, endpoint, "spool")
    (tmp_path / "file").write_text("")
    settings(SPOOL_DIR=tmp_path / "file")
    assert "TOPOWATCH_SPOOL_DIR" in complaint(capsys, endpoint, "spool")


def left_by_a_job(spool_dir: Path, name: str, count: int, cursor: dict[str, object], mode: str = "online") -> None:
    """Let a process that ends at once write a spool."""
    writer = spool.SpoolWriter(spool_dir, name, {"endpoint": "127.0.0.1:1", "mode": mode}, 1 << 20)
    facts = messages.RunFacts("g", "r", 0, 1, 1, name, {}, 1021, 0, 10)
    writer.begin(1, messages.encode_descriptor(facts, incarnation=1, start_step=0, first_seq=0, probe=None))
    for step in range(count):
        writer.append(sample_pb2.Item(schema=1, sample=sample_pb2.Sample(step=step)).SerializeToString())
    writer.close(ended=False)
    (writer.directory / spool.CURSOR).write_text(json.dumps(cursor))


def test_what_waits_and_who_ships_it_is_told(
    serve: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    endpoint, spool_dir = serve(), tmp_path / "spool"
    assert "no forwarder runs, nothing waits" in examine(capsys, "--endpoint", endpoint)[1]["forwarder"][1]
    left_by_a_job(spool_dir, "offline", 5, {}, mode="offline")
    left_by_a_job(spool_dir, "done", 5, {"next_seq": 5})
    assert "nothing waits" in examine(capsys, "--endpoint", endpoint)[1]["forwarder"][1]
    left_by_a_job(spool_dir, "killed", 5, {"next_seq": 2})
    detail = complaint(capsys, endpoint, "forwarder")
    assert "3 items of 1 jobs wait" in detail
    assert f"`topowatch sync {spool_dir}`" in detail
    left_by_a_job(spool_dir, "refused", 1, {"next_seq": 0, "message": "d:1: UNAVAILABLE: refused"})
    assert "“d:1: UNAVAILABLE: refused”" in complaint(capsys, endpoint, "forwarder")


def test_a_forwarder_that_runs_is_found(
    serve: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lock = SpoolLock(tmp_path / "spool")
    assert lock.acquire()
    lock.sign()
    try:
        left_by_a_job(tmp_path / "spool", "w", 2, {})
        found = examine(capsys, "--endpoint", serve())[1]["forwarder"]
    finally:
        lock.release()
    assert found[0]
    assert "a forwarder runs (process " in found[1]
    assert "2 items of 1 jobs wait" in found[1]


def test_a_person_reads_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--endpoint", "127.0.0.1:1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok   python")
    assert lines[-1].startswith("FAIL connection")


def test_nothing_is_stored_on_a_real_daemon(inline_daemon: Any, capsys: pytest.CaptureFixture[str]) -> None:
    status, checks = examine(capsys, "--endpoint", inline_daemon.grpc)
    assert status == 0, checks
    assert inline_daemon.get("/api/v1/runs")["groups"] == []
    assert inline_daemon.metric("topowatch_ingest_samples_total") == 0
