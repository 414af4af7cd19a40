"""The address of a request's client, also behind proxies."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.types import Scope

__all__ = ["Network", "client_address", "is_address", "is_trusted", "rate_key"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAX_HOPS = 20
_CUSTOMER_BITS = 64
"""The prefix of the IPv6 addresses that one customer has."""


def client_address(scope: Scope, trusted: Sequence[Network]) -> str:
    """Return the last address before the trusted proxies.

    `X-Forwarded-For` counts only if the peer is a trusted proxy, and is read from its end, where
    the trusted proxies write.
    """
    address = str((scope.get("client") or ("unknown", 0))[0])
    if not trusted or not is_trusted(address, trusted):
        return address
    lines = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
    hops = b",".join(lines).decode("latin-1").split(",")[-_MAX_HOPS:]
    for hop in reversed(hops):
        if _parse(hop.strip()) is None:
            break
        address = hop.strip()
        if not is_trusted(address, trusted):
            break
    return address


def rate_key(address: str) -> str:
    """Return what the rates of an address count: itself, or its /64 for IPv6."""
    parsed = _parse(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, _CUSTOMER_BITS), strict=False))
    return address if parsed is None else str(parsed)


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an address, an IPv4 one if it is mapped into IPv6; None if it is not an address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        return parsed.ipv4_mapped or parsed
    return parsed


def is_address(text: str) -> bool:
    """Return whether this is the address of a host."""
    return _parse(text) is not None


def is_trusted(address: str, networks: Sequence[Network]) -> bool:
    """Return whether an address is in one of these networks."""
    parsed = _parse(address)
    return parsed is not None and any(parsed in network for network in networks)
