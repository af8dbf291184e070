"""Marked events: which recorded runs went wrong, at which step, and which are healthy."""

from __future__ import annotations

import csv
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from topowatch_monitor.commands.output import CommandError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from topowatch_monitor.commands.records import Key

HEALTHY = "healthy"


def _parse_onset(value: object) -> object:
    if value == HEALTHY:
        return None
    if value is None or isinstance(value, bool) or (isinstance(value, str) and not value.strip().isdecimal()):
        raise ValueError(f"expected the step at which the run went wrong, or {HEALTHY}")
    return value


class Mark(BaseModel):
    """What is known of one run.

    Attributes:
        run: its name.
        onset: step at which it went wrong; None for a healthy run.
        departure: step at which its loss was lost; None to find it in the recorded losses.
        group: its group, where several have a run of that name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str = Field(min_length=1)
    onset: Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(_parse_onset)]
    departure: int | None = None
    group: str | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Mark:
        if self.departure is not None and (self.onset is None or self.departure < self.onset):
            onset = HEALTHY if self.onset is None else self.onset
            raise ValueError(f"the departure, {self.departure}, has to follow an onset, which is {onset}")
        return self


def read_marks(file: Path) -> list[Mark]:
    """Read marks: rows of .csv, a list of objects in .json, or tables [[events]] in .toml.

    Raises:
        CommandError: the file cannot be read, or an entry is wrong; the message says which and what is expected.
    """
    try:
        entries = _entries(file)
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}", status=2) from None
    except RecursionError:
        raise CommandError(f"{file} cannot be read as {file.suffix}: it is nested too deeply", status=2) from None
    except (ValueError, csv.Error) as error:
        raise CommandError(f"{file} cannot be read as {file.suffix}: {error}", status=2) from None
    return [_mark(entry, f"{file}, event {number}") for number, entry in enumerate(entries, start=1)]


def assign(marks: Iterable[Mark], keys: Iterable[Key], file: Path) -> dict[Key, Mark]:
    """Return the mark of each run that has one; raises CommandError for a mark that is not of exactly one run."""
    known = list(keys)
    found: dict[Key, Mark] = {}
    for mark in marks:
        fitting = [key for key in known if key[2] == mark.run and mark.group in {None, key[1]}]
        where = f"{file} marks run {mark.run!r}" + ("" if mark.group is None else f" of group {mark.group!r}")
        if not fitting:
            names = ", ".join(sorted({key[2] for key in known}))
            raise CommandError(f"{where}, which the recordings do not hold; they hold {names}", status=2)
        if len(fitting) > 1:
            groups = ", ".join(key[1] for key in fitting)
            raise CommandError(f"{where}, which several groups have: name one under `group` ({groups})", status=2)
        if fitting[0] in found:
            raise CommandError(f"{where} twice: leave one of them out", status=2)
        found[fitting[0]] = mark
    return found


def _entries(file: Path) -> list[Any]:
    if file.suffix == ".csv":
        with file.open(encoding="utf-8-sig", newline="") as lines:
            return [_filled(row) for row in csv.DictReader(lines, restkey="more")]
    if file.suffix == ".toml":
        entries = tomllib.loads(file.read_text(encoding="utf-8")).get("events")
    elif file.suffix == ".json":
        entries = json.loads(file.read_text(encoding="utf-8"))
    else:
        raise CommandError(f"{file} ends in none of .csv, .json and .toml", status=2)
    if not isinstance(entries, list):
        form = "tables [[events]]" if file.suffix == ".toml" else "a list of objects"
        raise CommandError(f"{file} holds no events: write them as {form}", status=2)
    return entries


def _mark(entry: Any, where: str) -> Mark:
    try:
        return Mark.model_validate(entry)
    except ValidationError as error:
        raise CommandError(f"{where}: {_sentence(error)}", status=2) from None


def _filled(row: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a row that hold anything."""
    return {name.strip(): cell for name, cell in row.items() if cell or name == "onset"}


def _sentence(error: ValidationError) -> str:
    detail = error.errors()[0]
    name = ".".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        return f"unknown key {name!r}: valid are {', '.join(Mark.model_fields)}"
    message = detail["msg"].removeprefix("Value error, ")
    told = detail["input"]
    return f"{name}: {message}, not {told!r}" if name and detail["type"] != "missing" else f"{name} {message}".strip()
