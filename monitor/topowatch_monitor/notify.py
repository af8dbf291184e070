"""Tells the service manager that started the daemon how it is, where one listens: sd_notify(3), without its library."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send a state such as `READY=1`; nothing happens where there is no service manager, or it does not listen."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # Linux's abstract names begin with a zero byte
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as talk:
        try:
            talk.sendto(state.encode(), address)
        except OSError:
            return
