"""What a daemon must have before it may be reached from other machines. Pure."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`; a name that is not `localhost` may mean anything."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def refusal(listening: dict[str, str], *, tls: bool, tokens: bool, tokens_file: str) -> str | None:
    """Say why a daemon must not start like this, and what to do; None where it may.

    Args:
        listening: hosts by the name of the setting.
        tls: whether it speaks TLS.
        tokens: whether it asks for tokens.
        tokens_file: where they would be kept.
    """
    open_to_all = [f"{name} listens on {host}" for name, host in listening.items() if not is_loopback(host)]
    lacking = [
        "TLS (give tls_cert and tls_key)" if not tls else "",
        f"tokens (make one with `topowatch token create`; there is no {tokens_file})" if not tokens else "",
    ]
    missing = " and ".join(each for each in lacking if each)
    if not open_to_all or not missing:
        return None
    return (
        f"{' and '.join(open_to_all)}, which other machines may reach, without {missing}: whoever reaches it could "
        "write and read everything. Listen on 127.0.0.1, or, where something else keeps strangers out, say --insecure"
    )
