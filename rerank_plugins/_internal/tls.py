"""TLS over a blocking connection, in steps that each end.

A socket of the `ssl` module keeps its time limit only while nothing arrives: a peer that floods it
with messages that TLS ignores would hold it for ever.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial
from typing import TypeAlias, TypeVar

__all__ = ["TLS", "Receive", "Send", "holds_more"]

Receive: TypeAlias = Callable[[int], bytes]
"""Returns at most so many bytes that arrived, b"" at the end; keeps the time limit."""
Send: TypeAlias = Callable[[bytes], object]
"""Sends all of the bytes; keeps the time limit."""

_Result = TypeVar("_Result")
_SIZE = 2**16


class TLS:
    """The client's side of one encrypted connection; others move its bytes.

    All methods raise `ssl.SSLError`, and what `receive` and `send` raise.

    Args:
        context: the certificates to trust.
        server_hostname: whose certificate is expected.
    """

    def __init__(self, context: ssl.SSLContext, server_hostname: str | None) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=server_hostname
        )

    def shake_hands(self, receive: Receive, send: Send) -> None:
        """Agree on keys, and check the certificate."""
        self._perform(self.object.do_handshake, receive, send)

    def read(self, max_bytes: int, receive: Receive, send: Send) -> bytes:
        """Return at most so many decrypted bytes; b"" at the end."""
        try:
            return self._perform(partial(self.object.read, max_bytes), receive, send)
        except ssl.SSLEOFError:  # without a farewell, as most servers end
            return b""

    def write(self, data: bytes, receive: Receive, send: Send) -> None:
        """Encrypt and send bytes."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._perform(partial(self.object.write, rest), receive, send) :]

    def _perform(self, step: Callable[[], _Result], receive: Receive, send: Send) -> _Result:
        while True:
            is_done = True
            try:
                result = step()
            except ssl.SSLWantReadError:  # what goes wrong from here on has nothing to do with it
                is_done = False
            self._send_pending(send)
            if is_done:
                return result
            if received := receive(_SIZE):
                self._incoming.write(received)
            else:
                self._incoming.write_eof()

    def _send_pending(self, send: Send) -> None:
        if self._outgoing.pending:
            send(self._outgoing.read())


def holds_more(tls: ssl.SSLObject) -> bool:
    """Whether decrypted bytes, or the end, wait to be read; to find out takes one of them."""
    try:
        tls.read(1)
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        pass
    return True
