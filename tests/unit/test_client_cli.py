"""The commands of the base install: help that a stranger understands, and a doctor that says what is wrong."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from topowatch_client import forwarder, messages, spawn
from topowatch_client.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOPOWATCH_SPOOL_DIR", str(tmp_path / "spool"))
    monkeypatch.delenv("TOPOWATCH_MODE", raising=False)


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
