"""One HTTP request, and its response: collected, bounded and unpacked."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from rerank_plugins._internal.secret import Secret
from rerank_plugins.backends.http.client import httpx
from rerank_plugins.backends.http.failures import are_headers_too_long
from rerank_plugins.backends.http.network import is_answered
from rerank_plugins.backends.http.proxies import EnvironmentProxy
from rerank_plugins.errors import (
    BackendError,
    BackendUnavailable,
    InvalidResponse,
)

__all__ = ["LOCATION", "SUCCESS", "HTTPRequest", "HTTPResponse", "ResponseReader"]

MAX_RESPONSE = 4 * 2**20
"""Largest response in bytes, packed or unpacked, where the request says nothing else."""
MAX_ERROR = 2**16
"""How much of a response with any status but success is read, in bytes."""

SUCCESS = range(200, 300)
LOCATION = "rerank_plugins.location"
"""The extension of a response that holds its `Location`."""
_CONNECTING = "connection.connect_tcp.started"
_CONNECTION_ERRORS = (httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError)
_PACKINGS = frozenset({"br", "deflate", "gzip", "gzip, gzip", "identity", "zstd"})
_GZIP = 31  # zlib's number for it


@dataclass(frozen=True, slots=True)
class HTTPRequest:
    """One HTTP request; its repr shows neither headers nor texts."""

    method: str
    url: str
    headers: Mapping[str, str | Secret]
    body: bytes = b""
    server: str = ""
    """What messages call the server; "" is its host."""
    max_response: int = MAX_RESPONSE
    """Largest response in bytes, packed or unpacked."""

    def __repr__(self) -> str:
        return f"<{self.method} {self.url}, {len(self.body)} bytes>"


@dataclass(frozen=True, slots=True)
class HTTPResponse:
    """A response, unpacked; complete unless it is a long one without success."""

    status: int
    headers: Mapping[str, str]
    """Keys are case-insensitive."""
    content: bytes
    proxy: EnvironmentProxy | None = None
    """What forwarded it, and may have answered itself; None for an encrypted connection."""

    def __repr__(self) -> str:
        return f"<status {self.status}, {len(self.content)} bytes>"


class ResponseReader:
    """Collects one response within a deadline.

    Args:
        request: the request that it answers.
        deadline: when the response must be complete, in seconds of `time.monotonic()`.
        connect_timeout: seconds to wait for a connection.
    """

    def __init__(self, request: HTTPRequest, deadline: float, connect_timeout: float) -> None:
        self.request = request
        self.seconds = max(deadline - time.monotonic(), 0.0)
        """The time there was at the start."""
        self.connect_timeout = min(connect_timeout, self.seconds)
        self.stage = "read"
        """What is under way, for messages about a timeout."""
        url = urlsplit(request.url)
        self.where = request.server or url.netloc
        self.origin = f"{url.scheme}://{url.netloc}"
        self.proxy: EnvironmentProxy | None = None
        """What the request goes through."""
        self.met_stale_connection = False
        self._deadline = deadline
        self._opened_connection = False
        self._status: int | None = None
        self._limit = MAX_ERROR
        self._headers: Mapping[str, str] = {}
        self._content = bytearray()

    def trace(self, event: str) -> None:
        """Note an event of the client library."""
        self._opened_connection |= event == _CONNECTING

    @contextmanager
    def retry_stale_connection(self) -> Iterator[None]:
        """Suppress the error of a kept connection that broke before a response began.

        `met_stale_connection` is then True, and the request can be sent again. A server may close
        an idle connection just as the next request arrives, and a response that is longer than its
        `Content-Length` leaves its rest on the connection. Neither is the fault of this
        request, and scoring twice does no harm.
        """
        try:
            yield
        except _CONNECTION_ERRORS as exc:
            if self._opened_connection or self._status is not None or are_headers_too_long(exc):
                raise
            self.met_stale_connection = True

    def begin(self, response: httpx.Response) -> httpx.Response:
        """Start to collect the body of `response`."""
        if not self._opened_connection and not is_answered(response):
            raise httpx.RemoteProtocolError("the response came before its request")
        self._status = response.status_code
        if self._status in SUCCESS:
            self._limit = self.request.max_response
        if location := response.extensions.get(LOCATION):
            response.headers["location"] = location
        self._headers = response.headers
        self.stage = "total"
        return response

    def add(self, chunk: bytes) -> bool:
        """Collect a piece of the body; say whether to go on.

        Raises:
            TimeoutError: the deadline is over; many small pieces may arrive in one read.
        """
        if time.monotonic() > self._deadline:
            raise TimeoutError
        self._content += chunk  # not a list: a piece may be smaller than its place in one
        return len(self._content) <= self._limit

    def finish(self) -> HTTPResponse:
        """Return the response, unpacked.

        Raises:
            BackendUnavailable: there is none.
            BackendError: it is too large, packed or unpacked.
            InvalidResponse: it can't be unpacked.
        """
        # No frame that raises holds what came, which may repeat the key.
        if self._status is None:
            raise BackendUnavailable(f"{self.where}: no response")
        self._check_size("")
        packing = _packing(self._headers)
        if packing == "gzip":
            self._unpack()
        elif packing != "identity":
            raise InvalidResponse(f"{self.where}: the response is packed as {packing}, unrequested")
        content = bytes(self._content[: self._limit])
        proxy = self.proxy if self.origin.startswith("http:") else None
        return HTTPResponse(self._status, self._headers, content, proxy)

    def _unpack(self) -> None:
        unpacker = zlib.decompressobj(_GZIP)
        try:
            self._content = bytearray(unpacker.decompress(self._content, self._limit + 1))
        except zlib.error:
            raise InvalidResponse(
                f"{self.where}: the response claims to be gzip, and is not"
            ) from None
        self._check_size(", unpacked")
        if self._status in SUCCESS and not unpacker.eof:
            raise BackendUnavailable(f"{self.where}: the response ends in the middle of its gzip")

    def _check_size(self, how: str) -> None:
        if self._status in SUCCESS and len(self._content) > self._limit:
            raise BackendError(f"{self.where}: a response of more than {self._limit} bytes{how}")


def _packing(headers: Mapping[str, str]) -> str:
    """Return the encoding of a body, if it is one; all else may repeat the key."""
    encoding = headers.get("content-encoding", "identity").lower()
    return encoding if encoding in _PACKINGS else "something else"
