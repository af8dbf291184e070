"""The front's side of the engine's host: following it ends when it should."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from topowatch_monitor.engine import supervisor
from topowatch_monitor.engine.supervisor import HostedEngine

if TYPE_CHECKING:
    import pytest


def hosted(reports: list[Any]) -> HostedEngine:
    return HostedEngine(cast("Any", None), Path("engine.log"), reports.append)


def test_an_end_that_is_asked_for_while_a_report_comes_in_is_not_lost() -> None:
    """Under load one comes in at nearly any moment, and a daemon that misses its end goes on for ever."""

    async def scenario() -> list[Any]:
        reports: list[Any] = []
        reader = asyncio.StreamReader()
        following = asyncio.create_task(hosted(reports)._follow(reader))
        await asyncio.sleep(0)
        reader.feed_data(json.dumps({"applied": 1}).encode() + b"\n")
        following.cancel()
        await asyncio.wait({following}, timeout=5.0)
        assert following.cancelled()
        return reports

    assert asyncio.run(scenario()) in ([], [{"applied": 1}])


def test_a_host_that_says_nothing_for_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "SILENCE_SECONDS", 0.2)

    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        engine = hosted([])
        with theirs:
            reader, engine._writer = await asyncio.open_connection(sock=ours)
            await asyncio.wait_for(engine._follow(reader), 10.0)
        assert engine._writer.is_closing()

    asyncio.run(scenario())
