"""A real HTTP server in this process whose responses a test sets."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self, TypeAlias

from rerank_plugins._internal.locks import ForkSafeCondition, ForkSafeLock

__all__ = ["Behaviour", "FakeResponse", "FakeServer", "Received", "Writer", "in_turn"]


@dataclass(frozen=True)
class Received:
    """A request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    """The parsed JSON; None if the body was not JSON."""
    size: int
    """Bytes of the body."""


@dataclass(frozen=True)
class FakeResponse:
    """An HTTP response with any body, status and headers."""

    body: Any = b""
    """Sent as it is if it is bytes, else as JSON."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    """Besides `Content-Type` and `Content-Length`; one set here replaces it."""
    content_type: str | None = "application/json"
    """None sends no `Content-Type`."""

    def send(self, handler: BaseHTTPRequestHandler) -> None:
        """Write the response to the connection of `handler`."""
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        handler.send_response_only(self.status)
        if self.content_type is not None:
            handler.send_header("Content-Type", self.content_type)
        for name, value in {"Content-Length": str(len(body)), **self.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)


Writer: TypeAlias = Callable[[BaseHTTPRequestHandler], None]
"""Writes what it likes to `handler.wfile`; may set `handler.close_connection`."""

Behaviour: TypeAlias = FakeResponse | Callable[[Received], FakeResponse | Writer]
"""What a server does: one response to all requests, or a function of the request that returns a
response or a writer."""


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """Behave in these ways, one request each; the last one repeats.

    Raises:
        ValueError: `behaviours` is empty.
    """
    if not behaviours:
        raise ValueError("`in_turn` needs at least one behaviour")
    turns = itertools.chain(behaviours, itertools.repeat(behaviours[-1]))
    lock = ForkSafeLock()

    def behave(received: Received) -> FakeResponse | Writer:
        with lock:
            behaviour = next(turns)
        return behaviour(received) if callable(behaviour) else behaviour

    return behave


class FakeServer:
    """A server on the loopback interface, for a `with` statement.

    Each connection has its own thread, so `response` may block. Leaving the block ends all
    connections.

    Args:
        response: what to do with each request; may be replaced at any time. If it raises, or is
            or returns anything but a `Behaviour`, the client gets status 500 with the reason.
        tls: serves https with this context.
    """

    def __init__(self, response: Behaviour, *, tls: ssl.SSLContext | None = None) -> None:
        self.response = response
        """What to do with the next request."""
        self.requests: list[Received] = []
        """Every request, oldest first."""
        self.in_flight = 0
        """Requests that are being answered."""
        self.max_in_flight = 0
        """The highest number of requests in progress at one time."""
        self.connections = 0
        """Connections accepted so far."""
        self._open: set[socket.socket] = set()
        self._lock = ForkSafeCondition()
        self._server = _HTTPServer(self)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}"
        """Where it listens, without a path."""
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):  # it may have gone by itself
                    connection.shutdown(socket.SHUT_RDWR)
        self.wait_until_idle()

    def wait_until_idle(self, seconds: float = 10.0) -> bool:
        """Return whether every connection ends in time."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._open, seconds)

    def wait_for_requests(self, count: int, seconds: float = 10.0) -> bool:
        """Return whether `count` requests arrive in time."""
        with self._lock:
            return self._lock.wait_for(lambda: len(self.requests) >= count, seconds)

    def opened(self, connection: socket.socket) -> None:
        """Count a connection that opens."""
        with self._lock:
            self.connections += 1
            self._open.add(connection)

    def closed(self, connection: socket.socket) -> None:
        """Count a connection that closes."""
        with self._lock:
            self._open.discard(connection)
            self._lock.notify_all()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Read a request and send what `response` returns."""
        size = int(handler.headers.get("Content-Length") or 0)
        body = _parsed(handler.rfile.read(size))
        received = Received(handler.command, handler.path, dict(handler.headers), body, size)
        with self._lock:
            self.requests.append(received)
            self.in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self.in_flight)
            self._lock.notify_all()
        try:
            response = _respond(self.response, received)
            write = response.send if isinstance(response, FakeResponse) else response
            write(handler)
        finally:
            with self._lock:
                self.in_flight -= 1


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _respond(behaviour: Behaviour, received: Received) -> FakeResponse | Writer:
    """Return what to send; a mistake in a test's behaviour becomes a status 500 that names it."""
    response: object = behaviour
    try:
        if callable(behaviour):
            response = behaviour(received)
    except Exception as error:  # noqa: BLE001  # of the test that wrote it
        return _mistake(f"raised {type(error).__name__}: {error}")
    if isinstance(response, FakeResponse) or callable(response):
        return response
    verb = "is" if response is behaviour else "returned"
    return _mistake(f"{verb} a `{type(response).__name__}`")


def _mistake(what: str) -> FakeResponse:
    return FakeResponse({"error": f"`response` {what}"}, 500)


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(self, fake_server: FakeServer) -> None:
        self.fake_server = fake_server
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        self.fake_server.opened(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.fake_server.closed(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        self.server.fake_server.serve(self)  # type: ignore[attr-defined]  # ours, see `_HTTPServer`

    do_GET = do_POST  # noqa: N815  # the name that the base class calls

    def log_message(self, *args: object) -> None:
        """Say nothing."""
