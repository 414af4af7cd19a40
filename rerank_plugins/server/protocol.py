"""HTTP/1.1 connections: how long and how large headers may be, and how many there may be."""

from __future__ import annotations

import asyncio
import uuid
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rerank_plugins.server.errors import Problem, reply
from rerank_plugins.server.middleware import CROWDED
from rerank_plugins.server.settings import ServerSettings

__all__ = ["BoundedProtocol", "bounded_protocol"]

_MOST_HEADER_BYTES = 65_536


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a limit on the time and the size of headers.

    The clock runs from the first moment of a connection, and between two requests from the first
    byte of the second. What is no request gets the same JSON as what the application refuses, and
    the application hears when there are too many connections: probes must be answered even then.
    """

    header_seconds: float
    max_connections: int

    _waiting: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _in_headers = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_headers:
            self._wait()
            self._header_bytes += len(data)
        super().data_received(data)
        if self._in_headers and self._header_bytes > _MOST_HEADER_BYTES:
            self._refuse(431, "headers_too_large", "the headers are larger than 64 KiB")

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # it says less
        self._refuse(400, "bad_request", "this is not a valid HTTP/1.1 request")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"][CROWDED] = len(self.connections) > self.max_connections

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        self._in_headers = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_headers = True
        self._header_bytes = 0
        super().on_message_complete()

    def _refuse(self, status: int, kind: str, message: str) -> None:
        """Answer what is no request, and end the connection."""
        if self.transport.is_closing():
            return
        request_id = uuid.uuid4().hex
        response = reply(Problem(status, kind, message, close=True), request_id)
        head = [
            b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode()),
            b"x-request-id: " + request_id.encode(),
            *(name + b": " + value for name, value in response.raw_headers),
        ]
        self.transport.write(b"\r\n".join([*head, b"", response.body]))
        self.transport.close()

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(self.header_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        if not self.transport.is_closing():
            self.transport.abort()


def bounded_protocol(settings: ServerSettings) -> type[BoundedProtocol]:
    """Return the protocol with these limits: uvicorn takes a class and no arguments."""
    limits = {
        "header_seconds": settings.header_seconds,
        "max_connections": settings.max_connections,
    }
    return type("BoundedProtocol", (BoundedProtocol,), limits)
