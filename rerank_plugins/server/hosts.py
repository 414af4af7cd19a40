"""Which names the server answers to: a defence against DNS rebinding."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.types import Scope

__all__ = ["is_allowed_host", "is_loopback", "listens_on_loopback"]


def is_allowed_host(host: str, allowed: Sequence[str]) -> bool:
    """Return whether a request may carry this header `Host`.

    A page on the web can have its own name resolve to an address of a visitor's network, and is
    then of the same origin as the server there. But the browser still sends that name, which has a
    dot: addresses, `localhost` and names within a network never come from such a page.

    Args:
        host: a name or an address, with or without a port.
        allowed: names that are allowed as well; `"*"` stands for all.
    """
    name = host.strip().lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    else:
        name = name.partition(":")[0].removesuffix(".")
    is_local = "." not in name or name.endswith(".localhost")
    return is_local or _is_address(name) or "*" in allowed or name in map(str.lower, allowed)


def listens_on_loopback(scope: Scope) -> bool:
    """Return whether a request came to an address that only this machine can reach."""
    return is_loopback(str((scope.get("server") or ("",))[0]))


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address or name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
