"""The commands of the base install: help that a stranger understands, and a doctor that says what is wrong."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import subprocess
import sys
import threading
from concurrent import futures
from typing import TYPE_CHECKING

import grpc
import pytest

from topowatch_client import forwarder, messages, spawn
from topowatch_client.cli import main

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOPOWATCH_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.delenv("TOPOWATCH_MODE", raising=False)


@pytest.fixture
def health() -> Iterator[Callable[[bytes | grpc.StatusCode], str]]:
    """Start a server whose health service answers with the given bytes, or fails with the given code."""
    servers: list[grpc.Server] = []

    def start(answer: bytes | grpc.StatusCode) -> str:
        def check(_request: bytes, context: grpc.ServicerContext) -> bytes:
            if isinstance(answer, bytes):
                return answer
            context.abort(answer, "no")
            raise AssertionError

        server = grpc.server(futures.ThreadPoolExecutor(1))
        handlers = {"Check": grpc.unary_unary_rpc_method_handler(check)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(0).wait()


def examine(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, tuple[bool, str]]]:
    status = main(["doctor", "--json", *arguments])
    checks = json.loads(capsys.readouterr().out)
    return status, {check["name"]: (check["ok"], check["detail"]) for check in checks}


def test_all_is_well(health: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    status, checks = examine(capsys, "--endpoint", health(b"\x08\x01"))
    assert status == 0
    assert list(checks) == ["python", "torch", "settings", "spool", "address", "connection", "daemon"]
    assert all(ok for ok, _ in checks.values())
    assert importlib.metadata.version("torch") in checks["torch"][1]


@pytest.mark.parametrize(
    ("answer", "advice"),
    [
        (b"\x08\x02", "not serving"),
        (grpc.StatusCode.UNAUTHENTICATED, "set TOPOWATCH_TOKEN"),
        (grpc.StatusCode.UNIMPLEMENTED, "something other than topowatch"),
        (grpc.StatusCode.INTERNAL, "does the daemon want it"),
    ],
)
def test_a_daemon_that_does_not_serve_is_explained(
    health: Callable[..., str], capsys: pytest.CaptureFixture[str], answer: bytes | grpc.StatusCode, advice: str
) -> None:
    status, checks = examine(capsys, "--endpoint", health(answer))
    assert status == 1
    ok, detail = checks["daemon"]
    assert not ok
    assert advice in detail


def test_a_port_where_nothing_listens_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    status, checks = examine(capsys, "--endpoint", "127.0.0.1:1")
    assert status == 1
    assert "topowatch serve" in checks["connection"][1]
    assert "daemon" not in checks


def test_a_host_that_does_not_resolve_is_explained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise OSError("name not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    status, checks = examine(capsys, "--endpoint", "daemon.invalid:7070")
    assert status == 1
    assert "does not resolve" in checks["address"][1]


def test_settings_that_jobs_would_stumble_over_are_explained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TOPOWATCH_MODE", "disabled")
    assert "unset TOPOWATCH_MODE" in examine(capsys)[1]["settings"][1]
    monkeypatch.setenv("TOPOWATCH_MODE", "sometimes")
    status, checks = examine(capsys)
    assert status == 1
    assert "one of online, offline, disabled" in checks["settings"][1]
    monkeypatch.setenv("TOPOWATCH_MODE", "online")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TOPOWATCH_SPOOL_DIR", str(tmp_path / "file"))
    ok, detail = examine(capsys, "--endpoint", "127.0.0.1:1")[1]["spool"]
    assert not ok
    assert "TOPOWATCH_SPOOL_DIR" in detail


def test_a_person_reads_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--endpoint", "127.0.0.1:1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok   python")
    assert lines[-1].startswith("FAIL connection")


@pytest.mark.parametrize("command", [[], ["sync"], ["forward"], ["doctor"]])
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "usage: topowatch" in text
    if command:
        assert len(text.split()) > 60


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2


def test_a_bad_file_of_settings_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "topowatch.toml").write_text("[client]\ncolour = 1\n")
    (tmp_path / "spool").mkdir()
    assert main(["sync", str(tmp_path / "spool")]) == 1
    assert "unknown key 'colour'" in capsys.readouterr().err


def test_the_version_that_runs_report_is_the_one_that_is_installed() -> None:
    assert importlib.metadata.version("topowatch") == messages.VERSION


def test_a_client_that_is_not_installed_has_a_version_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    assert messages.installed_version() == "unknown"


@pytest.mark.parametrize(
    ("command", "arguments", "environment", "wanted"),
    [
        (command, *case)
        for command in ("sync", "forward")
        for case in (
            ([], {}, None),
            ([], {"TOPOWATCH_ENDPOINT": "127.0.0.1:7070"}, "127.0.0.1:7070"),
            ([], {"TOPOWATCH_ENDPOINT": "d:1"}, "d:1"),
            (["--endpoint", "127.0.0.1:7070"], {"TOPOWATCH_ENDPOINT": "d:1"}, "127.0.0.1:7070"),
        )
    ],
)
def test_an_endpoint_that_is_named_wins_over_the_jobs_own_even_if_it_is_the_default(
    command: str, arguments: list[str], environment: dict[str, str], wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[forwarder.Plan] = []

    async def serve(*given: object) -> None:
        plans.extend(one for one in given if isinstance(one, forwarder.Plan))

    monkeypatch.setattr(forwarder, "serve", serve)
    monkeypatch.delenv("TOPOWATCH_ENDPOINT", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    main([command, ".", *arguments])
    assert [plan.endpoint for plan in plans] == [wanted]


def test_the_token_of_a_job_reaches_its_forwarder_in_place_of_the_environments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, str]] = []

    class Child:
        def __init__(self, _command: list[str], env: dict[str, str], **_: object) -> None:
            started.append(env)

        def poll(self) -> int:
            return 0

    monkeypatch.setattr("subprocess.Popen", Child)
    monkeypatch.setenv("TOPOWATCH_TOKEN_FILE", "/t")
    monkeypatch.delenv("TOPOWATCH_TOKEN", raising=False)
    assert spawn.ensure_forwarder(tmp_path, "in memory")
    assert spawn.ensure_forwarder(tmp_path)
    tokens = [(env.get("TOPOWATCH_TOKEN"), env.get("TOPOWATCH_TOKEN_FILE")) for env in started]
    assert tokens == [("in memory", None), (None, "/t")]


def test_the_trainer_side_loads_neither_grpc_nor_torch_by_itself() -> None:
    code = "import sys, topowatch_client; print(*({'grpc', 'torch', 'google.protobuf'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_silence_is_not_mistaken_for_health(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something that accepts connections and never speaks is no daemon."""
    import socket as sockets

    monkeypatch.setattr("topowatch_client.doctor._SECONDS", 0.5)
    with sockets.create_server(("127.0.0.1", 0)) as silent:
        accepted: list[socket.socket] = []
        stop = threading.Event()

        def accept() -> None:
            silent.settimeout(0.1)
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    accepted.append(silent.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            status, checks = examine(capsys, "--endpoint", f"127.0.0.1:{silent.getsockname()[1]}")
        finally:
            stop.set()
            thread.join()
            for connection in accepted:
                connection.close()
    assert status == 1
    assert not checks["daemon"][0]
