"""HTTP/1.1 connections: their number, and the time and size of headers."""

from __future__ import annotations

import asyncio
import uuid
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rerank_plugins.server.errors import APIError, error_response
from rerank_plugins.server.middleware import TOO_MANY_CONNECTIONS
from rerank_plugins.server.settings import ServerSettings

__all__ = ["LimitedHTTPProtocol", "limited_http_protocol"]

_MAX_HEADER_BYTES = 65_536


class LimitedHTTPProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a limit on the time and the size of headers.

    The clock starts with the connection, and after a request with the first byte of the next one.
    What is not HTTP gets the same JSON as a request that the application refuses. Too many
    connections are for the application to refuse: it must respond to probes even then.
    """

    header_seconds: float
    max_connections: int

    _timer: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _in_headers = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_headers:
            self._start_timer()
            self._header_bytes += len(data)
        super().data_received(data)
        if self._in_headers and self._header_bytes > _MAX_HEADER_BYTES:
            self._refuse(431, "headers_too_large", "the headers are larger than 64 KiB")

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # we send our own
        self._refuse(400, "bad_request", "this is not a valid HTTP/1.1 request")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"][TOO_MANY_CONNECTIONS] = len(self.connections) > self.max_connections

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._in_headers = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_headers = True
        self._header_bytes = 0
        super().on_message_complete()

    def _refuse(self, status: int, type_: str, message: str) -> None:
        """Send an error and close the connection."""
        if self.transport.is_closing():
            return
        request_id = uuid.uuid4().hex
        response = error_response(APIError(status, type_, message, close=True), request_id)
        head = [
            b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode()),
            b"x-request-id: " + request_id.encode(),
            *(name + b": " + value for name, value in response.raw_headers),
        ]
        self.transport.write(b"\r\n".join([*head, b"", response.body]))
        self.transport.close()

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.header_seconds, self._time_out)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_out(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.abort()


def limited_http_protocol(settings: ServerSettings) -> type[LimitedHTTPProtocol]:
    """Return the protocol with these limits, as a class: uvicorn passes no arguments to it."""
    limits = {
        "header_seconds": settings.header_seconds,
        "max_connections": settings.max_connections,
    }
    return type("LimitedHTTPProtocol", (LimitedHTTPProtocol,), limits)
