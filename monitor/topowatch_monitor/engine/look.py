"""What somebody looks at, and what is answered: between the front and the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypedDict

if TYPE_CHECKING:
    from collections.abc import Collection

MOST_WAITING: Final = 256  # subjects; whoever looks asks for each again
MOST_OF_TENANT: Final = 128  # of these, so that one tenant leaves room for the others


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


def has_room(waiting: Collection[Subject], subject: Subject) -> bool:
    """Whether another subject may wait beside those that do."""
    theirs = sum(each.tenant == subject.tenant for each in waiting)
    return len(waiting) < MOST_WAITING and theirs < MOST_OF_TENANT
