"""`topowatch report`: a group and its runs as one file that shows what the page shows, without a daemon."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from pathlib import Path  # noqa: TC003 - typer reads the annotations when it runs
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.progress import track

from topowatch_monitor.commands.daemon import (
    DEFAULT_URL,
    BusyError,
    fetch_forecasts,
    fetch_group,
    fetch_map,
    fetch_run,
    fetch_runs,
    fetch_shape,
)
from topowatch_monitor.commands.output import CommandError, console
from topowatch_monitor.commands.read import (
    OfTenant,  # noqa: TC001 - typer reads the annotations when it runs
    Url,  # noqa: TC001
)
from topowatch_monitor.export import page

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 1.0
MOST_IN_VAIN = 5  # drawings one after the other that a daemon is too busy for; no more are asked for then


def report(
    group: Annotated[str, typer.Argument(metavar="GROUP", help="Name of the group.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="What to write, such as sweep.html.")],
    tenant: OfTenant = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Write all that the page shows of a group and its runs into one HTML file.

    The file needs neither a daemon nor a network: map of the paths, classes, forecasts, and for each run its curves,
    barcodes and slice of the loss, as they are now. It holds what the group's runs are called, their labels and
    results, for whoever gets it.

    For example:

      topowatch report my-sweep -o my-sweep.html
    """
    if output.is_dir():
        raise CommandError(f"{output} is a directory: name a file in it with -o", status=2)
    told = gather(url, group, tenant)
    unfinished = output.with_name(output.name + ".partial")
    try:
        unfinished.write_text(page.report(told), encoding="utf-8", errors="replace")
        unfinished.replace(output)
    except OSError as error:
        raise CommandError(f"cannot write {output}: {error.strerror or error}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    runs, missing = len(told["answers"]["runs"]["runs"]), len(told["problems"])
    lacking = f"; {missing} of its drawings could not be had, and the file says why" if missing else ""
    size = output.stat().st_size / 1e6
    console().print(f"{output}: {runs:,} runs, {size:.1f} MB{lacking}", markup=False, soft_wrap=True)


def gather(url: str, group: str, tenant: str | None) -> dict[str, Any]:
    """Return what a daemon answers about a group, as `page.report` takes it; raises CommandError."""
    classes = fetch_group(url, group, tenant)
    tenant = classes["tenant"]
    listed = fetch_runs(url, group, tenant)
    here = f"groups/{_part(group)}"
    answers: dict[str, Any] = {
        "runs": listed,
        f"{here}/classes": classes,
        f"{here}/forecast": fetch_forecasts(url, group, tenant),
    }
    problems: dict[str, str] = {}
    deadline = time.monotonic() + PATIENCE_SECONDS  # for all of them: of a busy engine, many may lack
    in_vain = 0

    def draw(path: str, fetch: Callable[[], dict[str, Any]]) -> None:
        nonlocal in_vain
        if in_vain == MOST_IN_VAIN:
            problems[path] = "the daemon was too busy to draw it"
            return
        try:
            answers[path] = patiently(fetch, deadline)
            in_vain = 0
        except CommandError as error:
            in_vain = in_vain + 1 if isinstance(error, BusyError) else 0
            problems[path] = str(error)

    draw(f"{here}/map", partial(fetch_map, url, group, tenant))
    names = [run["run"] for run in listed["runs"]]
    for name in track(names, "reading runs", console=Console(stderr=True), transient=True):
        answers[f"runs/{_part(name)}"] = fetch_run(url, name, group, tenant)
        draw(f"runs/{_part(name)}/shape", partial(fetch_shape, url, name, group, tenant))
    return {
        "group": group,
        "tenant": tenant,
        "made_at": listed["now"],
        "answers": answers,
        "problems": problems,
    }


def patiently(fetch: Callable[[], dict[str, Any]], deadline: float) -> dict[str, Any]:
    """Ask, and again while the daemon is too busy to draw, until the clock says `deadline`; raises CommandError."""
    while time.monotonic() < deadline:
        with contextlib.suppress(BusyError):
            return fetch()
        time.sleep(PAUSE_SECONDS)
    return fetch()


def _part(name: str) -> str:
    """Return a name as a part of a path, as the page's encodeURIComponent writes it."""
    return quote(name, safe="!'()*")
