"""When a certificate ends, read from its file: Python's ssl tells that of a peer's alone."""

from __future__ import annotations

import base64
import re
from datetime import datetime, timezone

_CERTIFICATE = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.+?)-----END", re.DOTALL)
_VERSION = 0xA0  # tag of a part that may be left out
_UTC_TIME = 0x17  # tag of a time with two digits of the year


def not_after(pem: bytes) -> float:
    """Return when the first certificate in a file ends, in Unix seconds.

    Args:
        pem: of a file that `ssl` has taken as a certificate: a key may stand before it, its chain behind it.

    Raises:
        ValueError: there is no certificate in it.

    Source: RFC 5280, sections 4.1 and 4.1.2.5.
    """
    found = _CERTIFICATE.search(pem)
    if found is None:
        raise ValueError("there is no certificate in PEM")
    (_, certificate), *_ = _elements(base64.b64decode(found[1]))
    (_, signed), *_ = _elements(certificate)
    _serial, _algorithm, _issuer, validity, *_ = (part for tag, part in _elements(signed) if tag != _VERSION)
    _, (tag, end) = _elements(validity)
    form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(end.decode(), form).replace(tzinfo=timezone.utc).timestamp()


def _elements(der: bytes) -> list[tuple[int, bytes]]:
    """Split DER into (tag, content); the tags that a certificate begins with have one byte."""
    found = []
    at = 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:  # the long form: as many bytes of length follow
            width = length & 0x7F
            length, at = int.from_bytes(der[at : at + width], "big"), at + width
        found.append((tag, der[at : at + length]))
        at += length
    return found
