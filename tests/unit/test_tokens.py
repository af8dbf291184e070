"""Tokens: who is let in, and what is kept of them."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from topowatch_monitor.access import token_file
from topowatch_monitor.access.gate import ANYBODY, FRESH_SECONDS, DeniedError, Gate
from topowatch_monitor.access.tokens import ADMIN, READ, WRITE, Token, matches, mint, parse
from topowatch_monitor.engine.view import at
from topowatch_monitor.export.fleet import DaemonStats, Fleet
from topowatch_monitor.export.http import create_app

if TYPE_CHECKING:
    from topowatch_monitor.access.gate import Identity


class Door:
    """A gate with clocks of its own."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.moment = 1000.0
        self.gate = Gate(file, monotonic=lambda: self.moment, now=lambda: self.moment)

    def later(self, seconds: float = FRESH_SECONDS) -> Door:
        self.moment += seconds
        return self

    def give(self, *scopes: str, tenant: str = "vision", lasts: float | None = None) -> tuple[Token, str]:
        made = mint(tenant, scopes, now=self.moment, lasts_seconds=lasts)
        with token_file.changing(self.file) as tokens:
            tokens[made[0].id] = made[0]
        self.later()
        return made

    def ask(self, text: str | None, scope: str = READ) -> Identity:
        return self.gate.identify(None if text is None else f"Bearer {text}", scope)

    def refuses(self, text: str | None, scope: str = READ) -> DeniedError:
        with pytest.raises(DeniedError) as caught:
            self.ask(text, scope)
        return caught.value


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path / token_file.NAME)


def test_nothing_but_a_hash_of_a_token_is_kept(door: Door) -> None:
    kept, text = door.give(WRITE)
    found = parse(text)
    assert found is not None
    name, secret = found
    assert (name, matches(kept, secret), matches(kept, secret[:-1] + "x")) == (kept.id, True, False)
    assert len(secret) == 43
    assert secret not in door.file.read_text()
    assert secret not in repr(kept)
    assert stat.S_IMODE(door.file.stat().st_mode) == 0o600
    assert token_file.read(door.file) == {kept.id: kept}


def test_without_tokens_everybody_is_let_in_and_with_the_first_nobody_without_one(door: Door) -> None:
    assert door.ask(None, WRITE) == ANYBODY
    door.give(WRITE)
    assert "a token is needed" in str(door.refuses(None))
    for nonsense in ("", "topowatch_", "x" * 100_000, "topowatch_000000000000_" + "a" * 43, "\u2603"):
        assert not door.refuses(nonsense).known
    with pytest.raises(DeniedError):
        door.gate.identify("Basic dXNlcjpwYXNz", READ)


def test_the_secret_of_another_token_opens_nothing(door: Door) -> None:
    (one, mine), (_, other) = door.give(READ), door.give(READ)
    found = parse(other)
    assert found is not None
    assert "not known" in str(door.refuses(f"topowatch_{one.id}_{found[1]}"))
    assert door.ask(mine).token == one.id


@pytest.mark.parametrize(
    ("scopes", "allowed", "refused"),
    [((WRITE,), [WRITE], [READ]), ((READ,), [READ], [WRITE]), ((ADMIN,), [READ], [WRITE])],
)
def test_a_token_is_good_for_its_scopes_alone(
    door: Door, scopes: tuple[str, ...], allowed: list[str], refused: list[str]
) -> None:
    _, text = door.give(*scopes)
    for scope in allowed:
        assert door.ask(text, scope).tenant == "vision"
    for scope in refused:
        assert door.refuses(text, scope).known


def test_a_tenant_sees_its_own_and_an_admin_all(door: Door) -> None:
    assert door.ask(door.give(READ)[1]).sees == "vision"
    assert door.ask(door.give(READ, ADMIN)[1]).sees is None


def test_a_token_ends_when_it_expires_or_is_revoked(door: Door) -> None:
    _, short = door.give(READ, lasts=10.0)
    kept, long = door.give(READ)
    assert door.ask(short).may(READ)
    assert "has expired" in str(door.later(10.0).refuses(short))
    with token_file.changing(door.file) as tokens:
        tokens[kept.id] = replace(kept, revoked_at=door.moment)
    assert door.ask(long).may(READ), "what is known is a second old at most"
    refused = door.later().refuses(long)
    assert ("was revoked" in str(refused), refused.token) == (True, kept.id)


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"version": 9, "tokens": []}', '{"version": 1, "tokens": [{}]}', "[" * 100_000, "\x00"]
)
def test_a_file_that_cannot_be_read_or_is_gone_lets_nobody_in(door: Door, damage: str) -> None:
    _, text = door.give(READ)
    door.file.write_text(damage)
    door.later().refuses(text)
    assert str(door.file) in door.gate.trouble
    door.file.unlink()
    assert "is gone" in door.later().gate.trouble
    door.refuses(None)


def test_without_any_token_left_nobody_is_let_in(door: Door) -> None:
    """Whoever took out the last one did not mean to open the door."""
    kept, text = door.give(READ)
    with token_file.changing(door.file) as tokens:
        del tokens[kept.id]
    door.later().refuses(text)
    door.refuses(None)


@pytest.mark.parametrize(
    ("tenant", "scopes"), [("", [READ]), ("a/b", [READ]), ("../x", [READ]), ("v", []), ("v", ["root"])]
)
def test_what_cannot_be_a_token_is_not_made(tenant: str, scopes: list[str]) -> None:
    with pytest.raises(ValueError, match=r"tenant|scope"):
        mint(tenant, scopes, now=0.0)


def test_tokens_made_at_the_same_time_are_all_kept(door: Door) -> None:
    def several() -> None:
        for _ in range(20):
            made, _text = mint("vision", [READ], now=0.0)
            with token_file.changing(door.file) as tokens:
                tokens[made.id] = made

    threads = [threading.Thread(target=several) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(token_file.read(door.file)) == 80


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_what_root_makes_belongs_to_whoever_the_daemon_runs_as_and_follows_no_link_of_theirs() -> None:
    with tempfile.TemporaryDirectory() as reachable:  # pytest's own directories are for one user
        Path(reachable).chmod(0o755)
        made_by_root(Path(reachable))


def made_by_root(directory: Path) -> None:
    data, secret = directory / "data", directory / "root.secret"
    data.mkdir()
    os.chown(data, 12345, 12345)
    secret.write_text("of root")
    secret.chmod(0o600)
    for planted in ("tokens.new", "tokens.lock", "audit.jsonl"):
        (data / planted).symlink_to(secret)
    command = [sys.executable, "-m", "topowatch_monitor", "token", "create", "--data-dir", str(data)]
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0
    assert (secret.read_text(), secret.stat().st_uid, stat.S_IMODE(secret.stat().st_mode)) == ("of root", 0, 0o600)
    for planted in data.iterdir():
        planted.unlink()
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    found = {file.name: (file.stat().st_uid, stat.S_IMODE(file.stat().st_mode)) for file in data.iterdir()}
    assert found == dict.fromkeys(("tokens.json", "tokens.lock", "audit.jsonl"), (12345, 0o600))


def test_a_daemon_whose_tokens_were_there_and_are_gone_lets_nobody_in_after_a_restart_either(door: Door) -> None:
    door.give(READ)
    door.file.unlink()
    with pytest.raises(DeniedError):
        Gate(door.file).identify(None, READ)


def test_trouble_with_the_disk_that_passes_locks_nobody_out_for_good(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, text = door.give(READ)

    def stale(self: Path, **_: object) -> None:
        raise OSError(116, "stale file handle")

    with monkeypatch.context() as patched:
        patched.setattr(type(door.file), "stat", stale)
        door.later().refuses(text)
    assert door.later().ask(text).may(READ)


def test_a_change_that_fails_leaves_the_tokens_as_they_were(door: Door) -> None:
    door.give(READ)
    before = json.loads(door.file.read_text())

    def fail() -> None:
        with token_file.changing(door.file) as tokens:
            tokens.clear()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert json.loads(door.file.read_text()) == before


def test_where_tokens_are_on_readiness_says_why_not_to_an_admin_alone(door: Door) -> None:
    """Probes show none; reasons name files, disks and machines."""
    app = create_app(Fleet(at), stats=DaemonStats, not_ready=lambda: ["the disk is full"], gate=door.gate)

    def told(text: str | None) -> str:
        async def ask() -> httpx.Response:
            headers = {} if text is None else {"Authorization": f"Bearer {text}"}
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://daemon") as client:
                return await client.get("/-/ready", headers=headers)

        answer = asyncio.run(ask())
        assert answer.status_code == 503
        return answer.text

    assert "the disk is full" in told(None)
    admin, reader = door.give(ADMIN)[1], door.give(READ)[1]
    door.later()
    assert "the disk is full" in told(admin)
    assert [told(text) for text in (None, reader, "nonsense")] == ["topowatch is not ready\n"] * 3
