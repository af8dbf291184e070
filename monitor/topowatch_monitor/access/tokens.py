"""Bearer tokens: what they let their holders do, and what is kept of them. Pure.

A token reads `topowatch_<id>_<secret>`: the prefix lets scanners of repositories find one that got out, the id names it
in lists and audit lines, and of the secret (256 random bits) only a SHA-256 is kept.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# write: send samples, ask jobs for slices of their loss. read: see the tenant's runs. admin: see those of all tenants.
WRITE, READ, ADMIN = "write", "read", "admin"
SCOPES = (WRITE, READ, ADMIN)
DEFAULT_TENANT = "default"  # whose all is while there are no tokens
_TEXT = re.compile(r"topowatch_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True)
class Token:
    """What is kept of a token. Times are Unix seconds.

    Attributes:
        id: twelve hexadecimal digits.
        digest: SHA-256 of the secret, hexadecimal.
        tenant: whose runs it is for.
        scopes: of `SCOPES`.
        note: what its maker wrote down about it.
        expires_at: None if never.
        revoked_at: None while it is not.
    """

    id: str
    digest: str
    tenant: str
    scopes: frozenset[str]
    note: str
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    def ended(self, now: float) -> str | None:
        """Say why it is not good any more, if it is not."""
        if self.revoked_at is not None:
            return "was revoked"
        if self.expires_at is not None and now >= self.expires_at:
            return "has expired"
        return None

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON knows it."""
        return {**vars(self), "scopes": sorted(self.scopes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Token:
        """What `to_dict` described; ValueError if that is no token."""
        try:
            token = cls(**{**values, "scopes": frozenset(values["scopes"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"this is no token: {error}") from None
        times = (token.created_at, token.expires_at, token.revoked_at)
        if not all(isinstance(text, str) for text in (token.id, token.digest, token.tenant, token.note)):
            raise ValueError("a token has an id, a digest, a tenant and a note, all of them texts")
        if not (token.digest.isascii() and all(time is None or isinstance(time, int | float) for time in times)):
            raise ValueError(f"token {token.id}: the digest is no hexadecimal number, or a time none")
        problem = check_tenant(token.tenant) or check_scopes(token.scopes)
        if problem:
            raise ValueError(f"token {token.id}: {problem}")
        return token


def mint(
    tenant: str, scopes: Iterable[str], *, now: float, lasts_seconds: float | None = None, note: str = ""
) -> tuple[Token, str]:
    """Make a token; return what is kept of it and the text that its holder is given, which nobody can find out again.

    Raises:
        ValueError: the tenant's name or a scope cannot be used.
    """
    chosen = frozenset(scopes)
    problem = check_tenant(tenant) or check_scopes(chosen)
    if problem:
        raise ValueError(problem)
    name, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    expires_at = None if lasts_seconds is None else now + lasts_seconds
    kept = Token(name, digest_of(secret), tenant, chosen, note, now, expires_at)
    return kept, f"topowatch_{name}_{secret}"


def check_tenant(name: str) -> str | None:
    """Say what is wrong with the name of a tenant, if anything."""
    if _TENANT.fullmatch(name):
        return None
    return f"tenant {name!r}: use 1 to 63 letters, digits, dots, dashes or underscores, a letter or digit first"


def check_scopes(scopes: frozenset[str]) -> str | None:
    """Say what is wrong with scopes, if anything."""
    unknown = ", ".join(sorted(scopes - set(SCOPES)))
    if unknown or not scopes:
        return f"{f'unknown scope {unknown}' if unknown else 'no scope'}: there are {', '.join(SCOPES)}"
    return None


def parse(text: str) -> tuple[str, str] | None:
    """Return id and secret of a token's text; None if it is none."""
    found = _TEXT.fullmatch(text)
    return (found[1], found[2]) if found else None


def digest_of(secret: str) -> str:
    """Return what is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def matches(token: Token, secret: str) -> bool:
    """Whether a secret is the token's, in a time that does not tell how much of it is."""
    return hmac.compare_digest(token.digest, digest_of(secret))
