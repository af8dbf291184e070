"""The file of tokens in the data directory: written by `topowatch token`, read by the daemon."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from typing import IO, TYPE_CHECKING

from topowatch_monitor.access.tokens import Token

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME, LOCK = "tokens.json", ".lock"
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
    with _open(file.with_suffix(LOCK), os.O_CREAT) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tokens = read(file)
        yield tokens
        content = {"version": _VERSION, "tokens": [token.to_dict() for token in tokens.values()]}
        fresh = file.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with _open(fresh, os.O_CREAT | os.O_EXCL) as out:
            json.dump(content, out, indent=1)
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(file)
        directory = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _open(path: Path, flags: int) -> IO[str]:
    """Open a file to write, for its owner alone, and no other that a link leads to."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    return os.fdopen(descriptor, "w", encoding="utf-8")
