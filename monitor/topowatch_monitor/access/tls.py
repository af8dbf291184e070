"""The daemon's certificate, its key and, for mutual TLS, the authority of its clients: read again when they change."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, NamedTuple

from topowatch_monitor.access.validity import not_after

if TYPE_CHECKING:
    from pathlib import Path


class TlsError(Exception):
    """The files cannot be used; the message says which and why."""


class Pems(NamedTuple):
    """What the files hold, as it is."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


class Certificates:
    """The files of one daemon.

    Args:
        certificate: of the daemon, with what leads to its authority.
        key: of the certificate, without a passphrase.
        client_ca: authorities of clients, where only those with a certificate of theirs may connect.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._files = (certificate, key, client_ca)
        self._pems = self._read()
        self._door = _server_context(mutual=self.mutual)
        self._load(self._door)
        self._door.sni_callback = self._hand_over

    @property
    def mutual(self) -> bool:
        """Whether clients need a certificate."""
        return self._files[2] is not None

    @property
    def pems(self) -> Pems:
        """What the files held when they last could be used."""
        return self._pems

    @property
    def ends_at(self) -> float:
        """Unix time at which the certificate ends that connections to come are shown."""
        return not_after(self._pems.certificate)

    @property
    def context(self) -> ssl.SSLContext:
        """For servers of Python's own; connections to come have what was renewed."""
        return self._door

    def renew(self) -> bool:
        """Read the files again; return whether they changed.

        Raises:
            TlsError: they changed and cannot be used, such as in the middle of a replacement; what was is kept.
        """
        before = self._pems
        self._pems = self._read(before)
        return self._pems != before

    def _read(self, known: Pems | None = None) -> Pems:
        certificate = self._files[0]
        try:
            pems = self._bytes()
        except OSError as error:
            raise TlsError(f"cannot read {error.filename}: {error.strerror}") from None
        if pems == known:
            return pems
        fresh = _server_context(mutual=self.mutual)
        self._load(fresh)  # where they do not fit each other, what serves stays as it is
        if self._bytes() != pems:
            raise TlsError(f"{certificate} was replaced while it was read: it is read again")
        self._newest = fresh
        return pems

    def _hand_over(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _door: ssl.SSLContext) -> None:
        """Go on with the newest files, at every handshake: a context never forgets an authority that it was given."""
        connection.context = self._newest

    def _bytes(self) -> Pems:
        certificate, key, client_ca = self._files
        return Pems(certificate.read_bytes(), key.read_bytes(), client_ca.read_bytes() if client_ca else None)

    def _load(self, context: ssl.SSLContext) -> None:
        certificate, key, client_ca = self._files
        try:
            context.load_cert_chain(certificate, key, password=_no_passphrase)
        except (ssl.SSLError, OSError) as error:
            raise TlsError(f"{certificate} and {key} are no certificate and its key in PEM: {error}") from None
        if client_ca is not None:
            try:
                context.load_verify_locations(client_ca)
            except (ssl.SSLError, OSError) as error:
                raise TlsError(f"{client_ca} holds no certificates in PEM: {error}") from None


def _server_context(*, mutual: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        # A session that is taken up again shows no certificate, though its authority may be trusted no more.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def _no_passphrase() -> str:
    """Without this a daemon would wait for somebody to type."""
    raise TlsError("the key of the certificate has a passphrase: give one without, readable by the daemon alone")
