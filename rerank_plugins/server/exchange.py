"""One request and its response, between a connection and the application."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from http import HTTPStatus
from itertools import chain
from typing import Protocol

from starlette.types import ASGIApp, Message, Scope

__all__ = ["Connection", "Exchange", "status_line"]

_log = logging.getLogger(__name__)

_Headers = Sequence[tuple[bytes, bytes]]

_NOT_A_NAME = re.compile(rb"[^!#$%&'*+\-.^_`|~0-9A-Za-z]")
_NOT_A_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_BODILESS = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class Connection(Protocol):
    """A connection, as seen from one of its exchanges."""

    async def drain(self) -> None:
        """Wait until the client has read what was written, or is gone."""

    def write(self, data: bytes) -> None:
        """Send bytes to the client."""

    def update(self) -> None:
        """Go on, after something changed in an exchange."""

    def abort(self) -> None:
        """Break the connection."""


class Exchange:
    """A request, whose body may still come, and its response, in the ASGI protocol.

    Args:
        connection: where they travel.
        scope: the request's ASGI scope.
        keep_alive: whether another request may follow.
        expects_continue: whether the client waits for a word before it sends the body.
        headers: what every response carries.
    """

    def __init__(
        self,
        connection: Connection,
        scope: Scope,
        *,
        keep_alive: bool,
        expects_continue: bool,
        headers: _Headers,
    ) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.started = False
        """Whether the application has the request."""
        self.response_started = False
        self.response_complete = False
        self._connection = connection
        self._expects_continue = expects_continue
        self._headers = headers
        self._body = bytearray()
        self._more_body = True
        self._changed = asyncio.Event()
        self._disconnected = False
        self._head: Message | None = None
        """The start of the response, until its first bytes are there."""
        self._is_chunked = False
        self._unsent: int | None = None
        """How many bytes of the response are still to come; None if nobody knows."""

    @property
    def unread(self) -> int:
        """The bytes of the body that the application has yet to read."""
        return len(self._body)

    def receive_body(self, data: bytes) -> None:
        """Add to the body of the request."""
        self._expects_continue = False
        if not self.response_complete:
            self._body += data
            self._changed.set()

    def end_body(self) -> None:
        """Note that the body is complete."""
        self._more_body = False
        self._changed.set()

    def disconnect(self) -> None:
        """Tell the application that the client is gone; drop what it sends, and has sent."""
        self._disconnected = True
        self._body.clear()
        self._changed.set()

    async def run(self, app: ASGIApp) -> None:
        """Have the application respond."""
        try:
            await app(self.scope, self.receive, self.send)
        except Exception as error:  # noqa: BLE001  # a message may hold a text of the request
            _log.error("a response failed: %s", type(error).__name__)
        finally:
            if not self.response_complete and not self._disconnected:
                self._connection.abort()

    async def receive(self) -> Message:
        """Return the next part of the body, or that there is nobody any more (ASGI)."""
        if self._expects_continue and not self.response_started and not self._disconnected:
            self._expects_continue = False
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await self._changed.wait()
        self._changed.clear()
        if self._disconnected or self.response_complete:
            self._changed.set()
            return {"type": "http.disconnect"}
        body, self._body = bytes(self._body), bytearray()
        self._connection.update()  # it may read on
        return {"type": "http.request", "body": body, "more_body": self._more_body}

    async def send(self, message: Message) -> None:
        """Send a part of the response (ASGI).

        Raises:
            RuntimeError: the application breaks the protocol; the connection ends.
        """
        await self._connection.drain()
        if self._disconnected:
            return
        if self.response_complete:
            raise RuntimeError("the response is already complete")
        if message["type"] == "http.response.start":
            self._head = message
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        data = b""
        if not self.response_started:
            data = self._start(body, more=more)
        data += self._framed(body, more=more)
        self.response_complete = not more
        self._connection.write(data)
        if self.response_complete:
            self._body.clear()
            self._changed.set()
            self._connection.update()

    def _start(self, body: bytes, *, more: bool) -> bytes:
        """Return the head of the response, in one piece with the first bytes of its body."""
        if self._head is None:
            raise RuntimeError("the response has no start")
        self.response_started = True
        status = self._head["status"]
        lines = [status_line(status)]
        for name, value in chain(self._headers, self._head.get("headers", ())):
            if _NOT_A_NAME.search(name) or _NOT_A_VALUE.search(value):
                raise RuntimeError("a header of the response is not valid")
            match name.lower():
                case b"connection":
                    self.keep_alive = self.keep_alive and b"close" not in value.lower()
                    continue
                case b"transfer-encoding":
                    continue  # that is for the connection to say
                case b"content-length":
                    self._unsent = int(value)
            lines.append(name.lower() + b": " + value)
        lines += self._frame(status, body, more=more)
        if self._expects_continue:
            self.keep_alive = False  # the body may come, or the next request
        if not self.keep_alive:
            lines.append(b"connection: close")
        return b"\r\n".join([*lines, b"", b""])

    def _frame(self, status: int, body: bytes, *, more: bool) -> list[bytes]:
        """Choose how the client will know the end of the body; return the header that says it."""
        if self.scope["method"] == "HEAD" or status in _BODILESS:
            self._unsent = 0
        elif self._unsent is None and not more:
            self._unsent = len(body)
            return [b"content-length: %d" % len(body)]
        elif self._unsent is None and self.scope["http_version"] == "1.1":
            self._is_chunked = True
            return [b"transfer-encoding: chunked"]
        elif self._unsent is None:
            self.keep_alive = False  # the end of the connection is that of the body
        return []

    def _framed(self, body: bytes, *, more: bool) -> bytes:
        if self.scope["method"] == "HEAD":
            return b""
        if self._is_chunked:
            end = b"" if more else b"0\r\n\r\n"
            return (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + end
        if self._unsent is not None:
            self._unsent -= len(body)
            if self._unsent < 0 or (self._unsent and not more):
                raise RuntimeError("the response has another length than it says")
        return body


def status_line(status: int) -> bytes:
    """Return the first line of a response, without its end."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}".encode()
