"""HTTP/1.1 connections: in every state a clock runs, and bytes are counted."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.server import ServerState

from rerank_plugins.server.client_address import Network, is_trusted, rate_key
from rerank_plugins.server.connection_clock import Clock, seconds_in
from rerank_plugins.server.connection_pressure import Connections, State
from rerank_plugins.server.errors import APIError, error_response
from rerank_plugins.server.exchange import Exchange, status_line
from rerank_plugins.server.metrics import ServerMetrics
from rerank_plugins.server.middleware import PLACES
from rerank_plugins.server.request_parser import (
    HEADERS_TOO_LARGE,
    MAX_HEAD_BYTES,
    RequestHead,
    RequestParser,
    RequestRefused,
    StopParsing,
)
from rerank_plugins.server.settings import ServerSettings
from rerank_plugins.server.socket_input import unread_bytes

__all__ = ["HTTPConnection", "http_protocol"]

_MAX_AHEAD, _MAX_AHEAD_BYTES = 16, 65_536
"""How many requests, and how much of them, may wait for the responses before theirs.

The connection ends after those that came in full; a client sends the others again.
"""

_READ_BYTES = 65_536
"""How much is read from one connection before it is the turn of the others."""

_MAX_UNREAD_BYTES = 65_536
"""How much of a body waits for the application before the connection reads no more."""

_FRAMING_BYTES, _FRAMING_SHARE = 65_536, 4
"""Chunk sizes, their extensions and trailers may have so many bytes, and a quarter of the body."""

_LINGER_BODIES = 4
"""How much more a client may send that has to read the last response."""

_FIRST_LOOK, _LAST_LOOK = 0.02, 0.5
"""Seconds between looks whether a client is gone that will send no more."""


class HTTPConnection(asyncio.BufferedProtocol):
    """A connection of uvicorn's server, from the first byte to the last.

    llhttp parses what arrives. At each moment the connection is in one `State`; entering it starts
    its clock, and its bytes are counted against the budget of that state: `docs/server.md` lists
    them. Requests are answered in the order in which they came, errors of HTTP included, and a
    request that waits for the one before it is not read.

    Args:
        config: uvicorn's, with the application.
        server_state: uvicorn's record of connections and tasks.
        app_state: the state of the application's lifespan.
        settings: the limits.
        trusted: the proxies, each of whose connections may be another client's.
        connections: all connections of the server.
        read_buffer: what every connection reads into; each takes its bytes out at once.
        on_refused: called with the type of each error that the application never sees.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        settings: ServerSettings,
        trusted: Sequence[Network],
        connections: Connections,
        read_buffer: bytearray,
        on_refused: Callable[[str], None],
    ) -> None:
        self._app = config.loaded_app
        self._root_path = config.root_path
        self._server_state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._settings = settings
        self._trusted = trusted
        self._connections = connections
        self._read_buffer = read_buffer
        self._on_refused = on_refused
        self._transport: asyncio.Transport
        self._addresses: dict[str, Any] = {}
        self.owner: str | None = None
        """The address of the client, if it is not that of a trusted proxy."""

        self._state = State.HEAD
        self._clock = Clock(self._loop, self._end_state)

        # What comes
        self._parser = RequestParser(self)
        self._in_head = True
        """Whether a byte of a next request is there, or is due because the connection is new."""
        self._incoming: Exchange | None = None
        """The exchange whose body is not complete."""
        self._part = 0
        """The number of heads and bodies that were complete."""
        self._part_bytes = 0
        self._body_bytes = 0
        self._ahead_bytes = 0
        """How much came of the requests that wait for another."""
        self._is_deaf = False
        """Whether what comes is no longer parsed."""
        self._has_eof = False
        self._looks = 0
        """How often it was seen whether a client that will send no more is there."""
        self._is_reading = True
        self._is_refused = False
        """Whether the last response is to what is not HTTP."""

        # What goes
        self._exchanges: deque[Exchange] = deque()
        """Those without a complete response, in order; the application has the first one."""
        self._refusal: bytes | None = None
        """The response to what is not HTTP; it comes last."""
        self._is_last = False
        """Whether the connection ends after the exchanges."""
        self._all_read = asyncio.Event()
        """Whether nothing waits for the client to read it."""
        self._all_read.set()

    # As asyncio's transport sees it

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        transport.set_write_buffer_limits(0)  # so that `pause_writing()` tells of unread bytes
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # its kinds
        is_tls = transport.get_extra_info("sslcontext") is not None
        self._addresses = {
            "client": _address(transport.get_extra_info("peername")),
            "server": _address(transport.get_extra_info("sockname")),
            "scheme": "https" if is_tls else "http",
        }
        self.owner = self._owner()
        if not self._connections.add(self, self._state):
            transport.abort()
            return
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # of asyncio
        self._server_state.connections.discard(self)
        self._connections.remove(self)
        self._clock.stop()
        self._is_deaf = True
        for exchange in self._exchanges:
            exchange.disconnect()
        self._all_read.set()
        self._parser.close()

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002  # of asyncio
        return self._read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(memoryview(self._read_buffer)[:nbytes])
        self._in_head = self._in_head or self._incoming is None
        part, body_bytes = self._part, self._body_bytes
        if not self._is_deaf:
            self._parse(data)
        if part == self._part:
            self._part_bytes += len(data) - (self._body_bytes - body_bytes)
            self._check_budget()
        self.update()

    def eof_received(self) -> bool:
        self._has_eof = True
        if self._incoming is not None and not self._is_deaf:
            self._refuse(400, "incomplete_body", "the request ended before its body did")
        self._is_deaf = True
        self._make_last()
        if self._exchanges and not self._exchanges[0].response_started:
            self._probe()
        self.update()
        return not self._transport.is_closing()

    def pause_writing(self) -> None:
        self._all_read.clear()
        self.update()

    def resume_writing(self) -> None:
        self._all_read.set()
        self.update()

    # As uvicorn's server sees it

    def shutdown(self) -> None:
        """End after the exchanges that are in progress."""
        self._make_last()
        if self._state is State.ENDING:
            self._transport.abort()
        else:
            self.update()

    # As the other connections see it

    def evict(self) -> None:
        """Close at once, and let go of what came: another connection needs the place."""
        for exchange in self._exchanges:
            exchange.disconnect()
        if self._state is State.IDLE:
            self._transport.close()
        else:
            self._transport.abort()

    def _owner(self) -> str | None:
        client = self._addresses["client"]
        if client is None or is_trusted(client[0], self._trusted):
            return None
        return rate_key(client[0])

    def has_input(self) -> bool:
        """Whether something came that has not been read."""
        return unread_bytes(self._transport.get_extra_info("socket").fileno()) > 0

    # As an exchange sees it

    async def drain(self) -> None:
        """Wait until the client has read what was written, or is gone."""
        await self._all_read.wait()

    def write(self, data: bytes) -> None:
        """Send bytes to the client."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def abort(self) -> None:
        """Break the connection."""
        self._transport.abort()

    def update(self) -> None:
        """Go on with what is due, and keep the clock and the books of the state that results."""
        if self._transport.is_closing():
            return
        self._advance()
        if self._transport.is_closing():
            return
        self._choose_reading()
        state = self._current_state()
        if state is not self._state:
            self._connections.move(self, self._state, state)
            self._state = state
            self._start_clock()
        if len(self._exchanges) <= 1:
            self._ahead_bytes = 0
        held = self._transport.get_write_buffer_size()
        if state is State.HEAD:
            held += self._part_bytes
        elif self._incoming is not None and not self._incoming.response_complete:
            held += self._body_bytes
        self._connections.hold(self, held)

    # States and clocks

    def _current_state(self) -> State:
        if self._state is State.ENDING:
            return State.ENDING
        if self._incoming is not None and len(self._exchanges) <= 1:
            return State.BODY
        if not self._all_read.is_set():
            return State.WRITING
        if self._exchanges:
            return State.SERVING
        return State.HEAD if self._in_head else State.IDLE

    def _start_clock(self) -> None:
        looks = self._state is State.SERVING and self._has_eof
        self._clock.start(_FIRST_LOOK if looks else seconds_in(self._state, self._settings))

    def _end_state(self) -> None:
        """End, since the time is up."""
        if self._transport.is_closing():
            return
        if self._state is State.SERVING:
            self._look_for_client()
        elif self._state is State.IDLE:
            self._transport.close()
        else:
            self._transport.abort()

    # Half-closed connections

    def _probe(self) -> None:
        """Find out whether a client that will send no more still reads.

        A connection closed for good and one closed for sending look the same until something is
        sent. Every client of HTTP/1.1 skips an interim response; a host without the client's socket
        resets the connection.
        """
        if self._exchanges[0].scope["http_version"] == "1.1":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._state is State.SERVING:
            self._start_clock()

    def _look_for_client(self) -> None:
        """Drop the request if the client is gone; transports don't tell after the end of input."""
        sock: socket.socket = self._transport.get_extra_info("socket")
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._transport.abort()
            return
        self._looks += 1
        self._clock.start(min(_FIRST_LOOK * 2**self._looks, _LAST_LOOK))

    # What comes

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed(data)
        except RequestRefused as error:
            if not self._is_deaf:  # else only that there is more, which is nobody's concern
                self._refuse(error.status, error.type, error.message)

    def _check_budget(self) -> None:
        most_unwanted = self._settings.body_bytes * _LINGER_BODIES
        if self._state is State.ENDING or self._is_deaf:
            if self._part_bytes > most_unwanted:
                self._transport.abort()
        elif self._incoming is None:
            if self._part_bytes > MAX_HEAD_BYTES:
                self._refuse(*HEADERS_TOO_LARGE)
        elif self._part_bytes > _FRAMING_BYTES + self._body_bytes // _FRAMING_SHARE:
            self._refuse(400, "framing_too_large", "the chunks of the body are too small")
        elif self._incoming.response_complete and self._body_bytes > most_unwanted:
            self._transport.abort()

    def _choose_reading(self) -> None:
        """Read unless a request waits for another, or the application for its turn to read."""
        unread = self._incoming.unread if self._incoming is not None else 0
        wanted = len(self._exchanges) <= 1 and unread <= _MAX_UNREAD_BYTES
        if self._has_eof or wanted == self._is_reading:
            return
        self._is_reading = wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _end_part(self) -> None:
        self._part += 1
        self._part_bytes = 0

    # As the parser sees it

    def begin_request(self) -> None:
        """Note the first byte of a request."""
        if len(self._exchanges) > _MAX_AHEAD:
            self._drop_rest()
        self._in_head = True

    def receive_head(self, head: RequestHead) -> None:
        """Begin the exchange of a request."""
        self._incoming = Exchange(
            self,
            self._scope(head),
            keep_alive=head.keep_alive,
            expects_continue=head.expects_continue,
            headers=self._server_state.default_headers,
        )
        self._exchanges.append(self._incoming)
        self._body_bytes = 0
        self._end_part()
        self._count_ahead(head.size)

    def receive_body(self, body: bytes) -> None:
        """Pass a part of a body on."""
        self._body_bytes += len(body)
        self._count_ahead(len(body))
        if self._incoming is not None:
            self._incoming.receive_body(body)

    def end_request(self) -> None:
        """Note that a request is complete."""
        if self._incoming is None:
            return
        if not self._incoming.keep_alive:
            self._is_deaf = self._is_last = True
        self._incoming.end_body()
        self._incoming = None
        self._in_head = False
        self._end_part()

    def _count_ahead(self, size: int) -> None:
        if self._incoming is None or len(self._exchanges) <= 1:
            return
        self._ahead_bytes += size
        if self._ahead_bytes > _MAX_AHEAD_BYTES:
            self._exchanges.remove(self._incoming)
            self._incoming = None
            self._drop_rest()

    def _drop_rest(self) -> None:
        """Serve what there is in full, and then end."""
        self._is_deaf = True
        self._make_last()
        raise StopParsing

    def _scope(self, head: RequestHead) -> Scope:
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.version,
            "method": head.method,
            "path": self._root_path + head.path,
            "raw_path": self._root_path.encode() + head.raw_path,
            "query_string": head.query,
            "root_path": self._root_path,
            "headers": head.headers,
            "state": {**self._app_state, PLACES: self._connections.places},
            **self._addresses,
        }

    # What goes

    def _advance(self) -> None:
        """Start the next exchange, or end, when the client has read all there was."""
        if not self._all_read.is_set() or self._state is State.ENDING:
            return
        while self._exchanges and self._exchanges[0].response_complete:
            if not self._exchanges.popleft().keep_alive:
                self._exchanges.clear()
                self._refusal = None
                self._is_last = True
        if self._exchanges:
            if not self._exchanges[0].started:
                self._start(self._exchanges[0])
        elif self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            self._transport.write(refusal)
            self._advance()
        elif self._is_last:
            self._end()

    def _make_last(self) -> None:
        """Have the connection end after the exchanges, and the refusal of what is not HTTP."""
        if self._is_last:
            return
        self._is_last = True
        if self._exchanges:
            self._exchanges[-1].keep_alive = False

    def _start(self, exchange: Exchange) -> None:
        exchange.started = True
        task = self._loop.create_task(exchange.run(self._app))
        self._server_state.tasks.add(task)
        task.add_done_callback(self._server_state.tasks.discard)

    def _end(self) -> None:
        """Close; if the client may still be sending, after it could read the last response."""
        is_sending = self._incoming is not None or self._is_refused
        if self._has_eof or not is_sending or not self._transport.can_write_eof():
            self._transport.close()
            return
        self._is_deaf = True
        self._incoming = None
        self._end_part()
        self._connections.move(self, self._state, State.ENDING)
        self._connections.hold(self, 0)
        self._state = State.ENDING
        self._start_clock()
        self._transport.write_eof()

    def _refuse(self, status: int, type_: str, message: str) -> None:
        """Have an error be the last response; where one has begun already, that is the last."""
        self._is_deaf = self._is_last = self._is_refused = True
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            if incoming.response_started:
                return
            incoming.disconnect()
            self._exchanges.remove(incoming)
        self._on_refused(type_)
        request_id = uuid.uuid4().hex
        response = error_response(APIError(status, type_, message, close=True), request_id)
        head = [
            status_line(status),
            b"x-request-id: " + request_id.encode(),
            *(name + b": " + value for name, value in response.raw_headers),
        ]
        self._refusal = b"\r\n".join([*head, b"", response.body])


def _address(address: Any) -> tuple[str, int] | None:
    """Return an address as ASGI has it; None for a Unix socket."""
    return (str(address[0]), int(address[1])) if isinstance(address, tuple) else None


def http_protocol(settings: ServerSettings, metrics: ServerMetrics) -> Any:
    """Return what makes the connections of a server, for uvicorn's option `http`."""
    return partial(
        HTTPConnection,
        settings=settings,
        trusted=settings.trusted_networks(),
        connections=Connections(
            settings.max_connections,
            settings.buffer_bytes,
            on_evicted=lambda needed: metrics.evicted.labels(needed).inc(),
        ),
        read_buffer=bytearray(_READ_BYTES),
        on_refused=lambda reason: metrics.rejected.labels(reason).inc(),
    )
