"""When a certificate ends, as openssl says it."""

from __future__ import annotations

import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

from certificates import Authority
from topowatch_monitor.access.tls import Certificates
from topowatch_monitor.access.validity import not_after

if TYPE_CHECKING:
    from pathlib import Path


def told_by_openssl(certificate: Path) -> float:
    command = ["openssl", "x509", "-noout", "-enddate", "-in", str(certificate)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return ssl.cert_time_to_seconds(done.stdout.strip().removeprefix("notAfter="))


@pytest.mark.parametrize("days", [0, 2, 400, 20_000])
def test_the_end_of_a_certificate_is_the_one_that_openssl_tells(tmp_path: Path, days: int):
    """After 2049 it is written with four digits of the year."""
    made = Authority(tmp_path / "ca").sign("daemon", days=days)
    assert not_after(made.certificate.read_bytes()) == told_by_openssl(made.certificate)


def test_of_a_file_with_a_key_and_a_chain_it_is_the_first_certificate_that_counts(tmp_path: Path):
    authority = Authority(tmp_path / "ca")
    made = authority.sign("daemon", days=5)
    parts = (made.key, made.certificate, authority.pair.certificate)
    assert not_after(b"".join(part.read_bytes() for part in parts)) == told_by_openssl(made.certificate)
    assert told_by_openssl(authority.pair.certificate) != told_by_openssl(made.certificate)


def test_a_file_without_a_certificate_is_refused():
    with pytest.raises(ValueError, match="no certificate"):
        not_after(b"-----BEGIN PRIVATE KEY-----")


def test_a_certificate_that_was_renewed_is_the_one_that_is_told_of(tmp_path: Path):
    authority = Authority(tmp_path / "ca")
    first = authority.sign("daemon", days=2)
    served = Certificates(first.certificate, first.key)
    before = served.ends_at
    authority.sign("daemon", days=90)
    assert served.ends_at == before
    assert served.renew()
    assert served.ends_at == told_by_openssl(first.certificate) > before
