"""`topowatch serve`: the daemon."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations when it runs
from typing import Annotated

import typer

from topowatch_monitor import config
from topowatch_monitor.commands.output import CommandError

RAY_ADDRESS = (
    "Join this Ray cluster: auto or HOST:PORT. One that asks for a token wants RAY_AUTH_MODE=token here, and the token "
    "in RAY_AUTH_TOKEN, in the file that RAY_AUTH_TOKEN_PATH names or in ~/.ray/auth_token. Beside busy jobs start its "
    "nodes with RAY_worker_niceness=0: by default Ray's workers yield to all other processes."
)


def serve(
    *,
    data_dir: Annotated[Path | None, typer.Option(help="Where the log and the snapshots live.")] = None,
    grpc: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where jobs send samples.")] = None,
    http: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Page, JSON and /metrics.")] = None,
    engine: Annotated[str | None, typer.Option(metavar="ray|inline", help="inline runs without Ray.")] = None,
    ray_address: Annotated[str | None, typer.Option(metavar="ADDRESS", help=RAY_ADDRESS)] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate for TLS, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="Authorities of client certificates, PEM: none connects without one.")
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Listen beyond this machine without TLS or tokens.")
    ] = None,
    shards: Annotated[int | None, typer.Option(help="Ray actors that share the work.")] = None,
    file: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="TOML file of settings.")] = None,
) -> None:
    """Start the daemon; it prints one line, `ready grpc=… http=…`, when it takes samples.

    It keeps everything in its data directory and finds it there again. SIGTERM or Ctrl-C ends it in good order.
    Beyond this machine it listens with TLS and tokens only (`topowatch token create`), unless told --insecure.
    `topowatch config check` lists all settings; those without a flag here are keys of --config or variables.

    For example:

      topowatch serve

      topowatch serve --data-dir /var/lib/topowatch --grpc 0.0.0.0:7070 --tls-cert tls.crt --tls-key tls.key

      topowatch serve --engine inline --config topowatch.toml
    """
    if sys.version_info >= (3, 13):
        raise CommandError("the daemon needs Python 3.10 to 3.12: giotto-tda has no wheels for later ones", status=2)
    flags = {
        "data_dir": data_dir,
        "grpc": grpc,
        "http": http,
        "engine": engine,
        "ray_address": ray_address,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "tls_client_ca": tls_client_ca,
        "insecure": insecure,
        "shards": shards,
    }
    try:
        settings = config.load(flags, file).settings
    except config.ConfigError as error:
        raise CommandError(str(error), status=2) from None
    from topowatch_monitor.serve import run

    raise typer.Exit(run(settings))
