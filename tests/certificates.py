"""Certificates for tests, made with openssl: a CA, and what it signs."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from harness import unavailable

if TYPE_CHECKING:
    from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Pair(NamedTuple):
    """A certificate and its key, as files."""

    certificate: Path
    key: Path

    def read(self) -> tuple[bytes, bytes]:
        """Key and certificate, in the order that gRPC's servers want."""
        return self.key.read_bytes(), self.certificate.read_bytes()


class Authority:
    """A CA of its own in `directory`."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("openssl") is None:
            unavailable("openssl makes the certificates")
        directory.mkdir()
        self._directory = directory
        self.pair = Pair(directory / "ca.pem", directory / "ca.key")
        _openssl("req", "-x509", *_KEY, "-subj", "/CN=ca", "-keyout", self.pair.key, "-out", self.pair.certificate)

    def sign(self, name: str, alternative: str = "IP:127.0.0.1", days: int = 2) -> Pair:
        """A certificate for `alternative` that is valid for `days` from now; with less than 0 it has expired."""
        made = Pair(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        request = self._directory / f"{name}.csr"
        alternatives = ("-addext", f"subjectAltName={alternative}")
        _openssl("req", *_KEY, "-subj", f"/CN={name}", *alternatives, "-keyout", made.key, "-out", request)
        by = ("-CA", self.pair.certificate, "-CAkey", self.pair.key, "-days", days, "-copy_extensions", "copy")
        _openssl("x509", "-req", "-in", request, *by, "-out", made.certificate)
        return made


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
