"""Tells who asks by the token that they show, and whether they may; follows the file of tokens."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from topowatch_monitor.access import token_file
from topowatch_monitor.access.tokens import ADMIN, DEFAULT_TENANT, READ, SCOPES, matches, parse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from topowatch_monitor.access.tokens import Token

FRESH_SECONDS = 1.0  # how old what is known of the file may be: as long as a revoked token may still be used


class Identity(NamedTuple):
    """Who asks.

    Attributes:
        tenant: whose runs are meant.
        scopes: what they may.
        token: its id; empty where none was asked for.
    """

    tenant: str
    scopes: frozenset[str]
    token: str

    def may(self, scope: str) -> bool:
        """Whether this is allowed; who may see everything may see what is theirs."""
        return scope in self.scopes or (scope == READ and ADMIN in self.scopes)

    @property
    def sees(self) -> str | None:
        """The tenant whose runs may be seen; None: all."""
        return None if ADMIN in self.scopes else self.tenant


ANYBODY = Identity(DEFAULT_TENANT, frozenset(SCOPES), "")


class DeniedError(Exception):
    """Somebody asked without being allowed to; the message may be told to them.

    Attributes:
        known: whether they showed a token that is good, but not for this.
        token: id of the token that they showed, if it reads as one.
    """

    def __init__(self, why: str, *, known: bool = False, token: str = "") -> None:
        super().__init__(why)
        self.known = known
        self.token = token


class Gate:
    """Lets in who shows a token of the file, once there is one. Safe to use from several threads.

    A file that was there and is gone, or cannot be read, opens nothing: then nobody is let in.

    Args:
        file: of the tokens.
        monotonic: seconds of a clock that never jumps.
        now: Unix seconds.
    """

    def __init__(
        self, file: Path, *, monotonic: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time
    ) -> None:
        self._file = file
        self._monotonic, self._now = monotonic, now
        self._lock = threading.Lock()
        self._tokens: dict[str, Token] = {}
        self._on = file.with_suffix(token_file.LOCK).exists()  # there have been some
        self._trouble = ""
        self._stamp: tuple[int, int, int] | None = None
        self._looked_at = -FRESH_SECONDS
        self._look()

    @property
    def on(self) -> bool:
        """Whether tokens are asked for."""
        self._look()
        return self._on

    @property
    def trouble(self) -> str:
        """Why nobody is let in, in words; empty while somebody may be."""
        self._look()
        return self._trouble

    def identify(self, shown: str | None, scope: str) -> Identity:
        """Tell who shows an Authorization header, if they may do what `scope` is for.

        Raises:
            DeniedError: they may not.
        """
        self._look()
        if not self._on:
            return ANYBODY
        if self._trouble:
            raise DeniedError("the daemon cannot read its tokens and lets nobody in: its log says why")
        if not shown:
            raise DeniedError("a token is needed: ask whoever runs the daemon for one")
        kind, _, text = shown.partition(" ")
        found = parse(text.strip()) if kind.lower() == "bearer" else None
        if found is None:
            raise DeniedError("what was shown is no token of topowatch: send `Authorization: Bearer topowatch_…`")
        name, secret = found
        token = self._tokens.get(name)
        if token is None or not matches(token, secret):
            raise DeniedError("the token is not known here", token=name)
        ended = token.ended(self._now())
        if ended is not None:
            raise DeniedError(f"the token {ended}", token=name)
        identity = Identity(token.tenant, token.scopes, token.id)
        if not identity.may(scope):
            raise DeniedError(
                f"the token lets its holder {', '.join(sorted(token.scopes))}, not {scope}", known=True, token=name
            )
        return identity

    def _look(self) -> None:
        """Take over what the file says now, if the last look is old."""
        with self._lock:
            moment = self._monotonic()
            if moment - self._looked_at < FRESH_SECONDS:
                return
            self._looked_at = moment
            try:
                status = self._file.stat()
            except FileNotFoundError:
                self._tokens, self._stamp = {}, None
                self._trouble = f"{self._file} is gone" if self._on else ""
                return
            except OSError as error:
                self._on, self._trouble, self._stamp = True, f"{self._file}: {error.strerror}", None
                return
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp == self._stamp:
                return
            try:
                self._tokens = token_file.read(self._file)
            except token_file.TokenFileError as error:
                self._on, self._trouble, self._stamp = True, str(error), None
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it, nobody is let in
                self._on, self._trouble, self._stamp = True, f"{self._file}: {error!r}", None
            else:
                # None of them need be left: whoever revoked all wants nobody in, not everybody.
                self._on, self._trouble, self._stamp = True, "", stamp
