"""`topowatch token`: who may write to a daemon and read from it."""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from topowatch_monitor import config
from topowatch_monitor.access import token_file
from topowatch_monitor.access.audit import Audit
from topowatch_monitor.access.ownership import become_owner
from topowatch_monitor.access.tokens import DEFAULT_TENANT, READ, WRITE, mint
from topowatch_monitor.commands.output import CommandError, console, print_json

if TYPE_CHECKING:
    from topowatch_monitor.access.tokens import Token

app = typer.Typer(help="Say who may write to a daemon and read from it.", no_args_is_help=True)

DataDir = Annotated[
    Path | None, typer.Option(help="The daemon's data directory; the default is that of `topowatch serve`.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
_UNITS = {"h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}


@app.command()
def create(
    *,
    tenant: Annotated[str, typer.Option(help="Whose runs it is for.")] = DEFAULT_TENANT,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="write|read|admin",
            help="What its holder may: send samples, see the tenant's runs, see those of all tenants; may be repeated. "
            "The default is write and read.",
        ),
    ] = None,
    expires: Annotated[str | None, typer.Option(metavar="90d", help="After so many h, d or w; default: never.")] = None,
    note: Annotated[str, typer.Option(help="What it is for.")] = "",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it, once: only a hash of it is kept.

    With the first token a daemon that runs begins to ask for tokens, within a second. Jobs and commands take theirs
    from TOPOWATCH_TOKEN_FILE or TOPOWATCH_TOKEN, Prometheus from `authorization: {credentials_file: …}`.

    For example:

      topowatch token create --tenant vision --scope write --expires 90d > trainers.token

      topowatch token create --scope admin --note prometheus
    """
    file, lasts = _file(data_dir), None if expires is None else _seconds(expires)
    try:
        kept, text = mint(tenant, scope or [WRITE, READ], now=time.time(), lasts_seconds=lasts, note=note)
    except ValueError as error:
        raise CommandError(str(error), status=2) from None
    first = not file.exists()
    with token_file.changing(file) as tokens:
        tokens[kept.id] = kept
    _audit(file, "token_created", kept)
    if as_json:
        print_json({**_told(kept), "token": text})
        return
    sys.stdout.write(text + "\n")
    if first:
        sys.stderr.write("This is the first token: the daemon asks for one from now on, also jobs that run already.\n")


@app.command("list")
def list_(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the tokens: id, tenant, what they may, until when; never a secret."""
    tokens = token_file.read(_file(data_dir))
    if as_json:
        print_json([_told(token) for token in tokens.values()])
        return
    if not tokens:
        console().print("There are no tokens: everybody who reaches the daemon may write and read.")
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in ("id", "tenant", "may", "made", "ends", "note"):
        table.add_column(name, overflow="fold")
    now = time.time()
    for token in tokens.values():
        ended = token.ended(now)
        until = ended.removeprefix("was ").removeprefix("has ") if ended else _day(token.expires_at)
        row = (token.id, token.tenant, ", ".join(sorted(token.scopes)), _day(token.created_at), until, token.note)
        table.add_row(*map(Text, row), style="dim" if ended else None)
    console().print(table)


@app.command()
def revoke(
    token: Annotated[str, typer.Argument(metavar="ID", help="Its id, as `topowatch token list` shows it.")],
    data_dir: DataDir = None,
) -> None:
    """End a token: within a second nobody gets in with it, and its streams end at their next batch."""
    file = _file(data_dir)
    known = token_file.read(file).get(token)
    if known is None:
        raise CommandError(f"there is no token {token!r} in {file}: `topowatch token list` shows their ids")
    with token_file.changing(file) as tokens:
        revoked = tokens[token] = replace(tokens[token], revoked_at=tokens[token].revoked_at or time.time())
    _audit(file, "token_revoked", revoked)
    console().print(f"{token} of tenant {known.tenant} is revoked", markup=False)


def _file(data_dir: Path | None) -> Path:
    try:
        directory = config.load({"data_dir": data_dir}).settings.data_dir
    except config.ConfigError as error:
        raise CommandError(str(error), status=2) from None
    directory.mkdir(parents=True, exist_ok=True)
    become_owner(directory)
    return directory / token_file.NAME


def _audit(file: Path, event: str, token: Token) -> None:
    audit = Audit(file.parent)
    facts = {"token": token.id, "tenant": token.tenant, "scopes": " ".join(sorted(token.scopes))}
    audit.write(event, **facts, by=f"uid {os.getuid()}")
    audit.close()


def _told(token: Token) -> dict[str, object]:
    return {name: value for name, value in token.to_dict().items() if name != "digest"}


def _seconds(text: str) -> float:
    found = re.fullmatch(r"([1-9][0-9]{0,5})([hdw])", text.strip())
    if found is None:
        raise CommandError(f"--expires {text!r}: write a number and h, d or w, such as 90d", status=2)
    return int(found[1]) * _UNITS[found[2]]


def _day(moment: float | None) -> str:
    return "never" if moment is None else datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
