"""Whose request it is, when proxies stand between."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.types import Scope

__all__ = ["client_address", "rate_key"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MOST_HOPS = 20
_SHARED_BITS = 64  # an IPv6 customer has a whole /64


def client_address(scope: Scope, trusted: Sequence[Network]) -> str:
    """Return the address of the client: the last one that no trusted proxy vouches for.

    `X-Forwarded-For` counts only if the peer is a trusted proxy, and is read from its end, where
    the trusted proxies write.
    """
    peer = (scope.get("client") or ("unknown", 0))[0]
    if not trusted or not _is_in(peer, trusted):
        return str(peer)
    lines = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
    hops = b",".join(lines).decode("latin-1").split(",")[-_MOST_HOPS:]
    for hop in reversed(hops):
        address = hop.strip()
        if not _is_address(address):
            break
        peer = address
        if not _is_in(address, trusted):
            break
    return str(peer)


def rate_key(address: str) -> str:
    """Return what an address is counted as: itself, or its /64 for IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, _SHARED_BITS), strict=False))
    return address


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in networks)
