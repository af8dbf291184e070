"""The file of tokens in the data directory: written by `topowatch token`, read by the daemon."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from typing import TYPE_CHECKING

from topowatch_monitor.access.ownership import hand_over
from topowatch_monitor.access.tokens import Token

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "tokens.json"
_VERSION = 1


class TokenFileError(OSError):
    """The file cannot be used; the message says why."""


def read(file: Path) -> dict[str, Token]:
    """Return the tokens by id, in the order in which they were made; none where there is no file.

    Raises:
        TokenFileError: there is a file, and it cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise TokenFileError(f"{file}: {error}") from None
    try:
        content = json.loads(text)
        if content["version"] != _VERSION:
            raise TokenFileError(f"{file} is of version {content['version']}, this topowatch knows {_VERSION}: upgrade")
        tokens = [Token.from_dict(each) for each in content["tokens"]]
    except (ValueError, KeyError, TypeError) as error:
        raise TokenFileError(
            f"{file} is not what `topowatch token` writes ({error}): restore it from a backup"
        ) from None
    return {token.id: token for token in tokens}


@contextlib.contextmanager
def changing(file: Path) -> Iterator[dict[str, Token]]:
    """Read the tokens, and write down what the block makes of them: whole or not at all, readable by the owner alone.

    Raises:
        TokenFileError: the file cannot be read.
        OSError: it cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        hand_over(lock.fileno(), file.parent)
        tokens = read(file)
        yield tokens
        content = {"version": _VERSION, "tokens": [token.to_dict() for token in tokens.values()]}
        fresh = file.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            hand_over(out.fileno(), file.parent)
            json.dump(content, out, indent=1)
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(file)
        directory = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
