"""What somebody looks at, and what is answered: between the front and the engine."""

from __future__ import annotations

from typing import Any, NamedTuple, TypedDict


class Subject(NamedTuple):
    """What somebody looks at: a run, or a group as a whole where `run` is empty."""

    tenant: str
    group: str
    run: str = ""


class CloseUp(TypedDict):
    """The answer to one look; None where the run has gone, or where there was a `problem`, in words."""

    subject: list[str]
    answer: Any
    problem: str
