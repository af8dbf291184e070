"""How the daemon may be reached, and by whom, as its settings say."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from topowatch_monitor.access import token_file
from topowatch_monitor.access.audit import Audit
from topowatch_monitor.access.exposure import refusal
from topowatch_monitor.access.gate import Gate
from topowatch_monitor.access.tls import Certificates, TlsError

if TYPE_CHECKING:
    from topowatch_monitor.config import Settings

log = logging.getLogger("topowatch")

RENEW_SECONDS = 10.0  # between two looks whether a certificate was replaced


class UnsafeError(Exception):
    """The daemon must not start like this; the message says why, and what to do."""


@dataclass(frozen=True)
class Doors:
    """What stands between the daemon and who reaches it."""

    gate: Gate
    audit: Audit
    certificates: Certificates | None

    @classmethod
    def of(cls, settings: Settings) -> Doors:
        """Return what the settings ask for; the data directory is there.

        Raises:
            UnsafeError: strangers could write or read, or a file cannot be used.
        """
        gate = Gate(settings.data_dir / token_file.NAME)
        tls = settings.tls_cert is not None
        listening = {"grpc": settings.grpc.host, "http": settings.http.host}
        why = refusal(listening, tls=tls, tokens=gate.on, tokens_file=str(settings.data_dir / token_file.NAME))
        if why and not settings.insecure:
            raise UnsafeError(why)
        if gate.trouble:
            raise UnsafeError(gate.trouble)
        certificates = None
        if settings.tls_cert is not None and settings.tls_key is not None:
            try:
                certificates = Certificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
            except TlsError as error:
                raise UnsafeError(str(error)) from None
        if why:
            log.warning("told to be insecure: %s", why)
        return cls(gate, Audit(settings.data_dir), certificates)

    def started(self) -> None:
        """Write down that the daemon is reached like this from now on."""
        certificates = self.certificates
        tls = "none" if certificates is None else "mutual" if certificates.mutual else "server"
        self.audit.write("started", tls=tls, tokens="on" if self.gate.on else "off")

    async def follow(self) -> None:
        """Take over certificates that are replaced, and say when the tokens cannot be read; never returns."""
        told = ""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            trouble = self.gate.trouble
            if self.certificates is not None:
                try:
                    if self.certificates.renew():
                        log.info("the certificate was renewed")
                except TlsError as error:
                    trouble = f"{trouble} {error}: going on with the certificate from before".strip()
            if trouble and trouble != told:
                log.error("%s", trouble)
            told = trouble
