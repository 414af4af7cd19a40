"""Notices proxies whose `X-Forwarded-For` does not count because nobody named them."""

from __future__ import annotations

import logging

from starlette.datastructures import Headers

from rerank_plugins.server.client_address import is_address

__all__ = ["UndeclaredProxies"]

_log = logging.getLogger(__name__)

_MOST_ADDRESSES = 256
"""How many are remembered: any client can send the header."""


class UndeclaredProxies:
    """Logs one line when an address that is no trusted proxy forwards for several clients.

    All of these count as one client then, in rates, in turns, and in what one of them is refused
    for. An address that forwards for one client only does no harm.
    """

    def __init__(self) -> None:
        self._clients: dict[str, str] = {}
        """The first client for which each address forwarded."""
        self._is_known = False

    def notice(self, address: str, headers: Headers) -> None:
        """Look at a request.

        Args:
            address: its client's, as far as trusted proxies tell.
            headers: the request's.
        """
        if self._is_known or "x-forwarded-for" not in headers:
            return
        client = _client_of(address, ",".join(headers.getlist("x-forwarded-for")))
        is_remembered = address in self._clients or len(self._clients) < _MOST_ADDRESSES
        if not (is_remembered and is_address(client) and is_address(address)):
            return
        if self._clients.setdefault(address, client) != client:
            self._is_known = True
            _log.warning(
                "%s forwards for several clients, which count as one: if it is your proxy, list it "
                "in `trusted_proxies`, so that each has its own rate and turns",
                address,
            )


def _client_of(address: str, forwarded_for: str) -> str:
    """Return for whom an address forwards: the hop before its own, or the last one."""
    client = ""
    for hop in map(str.strip, forwarded_for.split(",")):
        if hop == address:
            break
        client = hop
    return client
