"""One HTTP request, and its response: collected, bounded, unpacked, or one error."""

from __future__ import annotations

import re
import ssl
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

from rerank_plugins.backends.http.client import httpx
from rerank_plugins.errors import (
    BackendError,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    InvalidResponse,
)

__all__ = ["HTTPRequest", "HTTPResponse", "ResponseReader", "translate_errors"]

MAX_RESPONSE = 32 * 2**20
"""Largest response in bytes, packed or unpacked; 10,000 scores take less than a megabyte."""

_CONNECTING = "connection.connect_tcp.started"
_CLOSED = re.compile("closed|disconnected")
_CONNECTION_ERRORS = (httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError)
_HEADERS_TOO_LONG = re.compile("buffer too long")
_GZIP = 31  # zlib's number for it
_CLOSED_TLS = (ssl.SSLEOFError, ssl.SSLZeroReturnError)


class HTTPRequest(NamedTuple):
    """One HTTP request."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = b""
    server: str = ""
    """What messages call the server; "" is its host."""


class HTTPResponse(NamedTuple):
    """A response, complete and unpacked."""

    status: int
    headers: Mapping[str, str]
    """Keys are case-insensitive."""
    content: bytes


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
        self.met_stale_connection = False
        self._opened_connection = False
        self._response: httpx.Response | None = None
        self._chunks: list[bytes] = []
        self._size = 0

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
            if (
                self._opened_connection
                or self._response is not None
                or _HEADERS_TOO_LONG.search(str(exc))
            ):
                raise
            self.met_stale_connection = True

    def begin(self, response: httpx.Response) -> httpx.Response:
        """Start to collect the body of `response`."""
        self._response = response
        self.stage = "total"
        return response

    def add(self, chunk: bytes) -> None:
        """Collect a piece of the body.

        Raises:
            BackendError: the response is too large.
        """
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > MAX_RESPONSE:
            raise BackendError(f"{self.where}: a response of more than {MAX_RESPONSE} bytes")

    def finish(self) -> HTTPResponse:
        """Return the response, unpacked.

        Raises:
            BackendUnavailable: there is none.
            BackendError: it is too large once it is unpacked.
            InvalidResponse: it can't be unpacked.
        """
        response = self._response
        if response is None:
            raise BackendUnavailable(f"{self.where}: no response")
        content = b"".join(self._chunks)
        encoding = response.headers.get("content-encoding", "identity").lower()
        if encoding == "gzip":
            content = self._unpack(content)
        elif encoding != "identity":
            raise InvalidResponse(
                f"{self.where}: the response is packed as {encoding[:20]!r}, unrequested"
            )
        return HTTPResponse(response.status_code, response.headers, content)

    def _unpack(self, content: bytes) -> bytes:
        unpacker = zlib.decompressobj(_GZIP)
        try:
            unpacked = unpacker.decompress(content, MAX_RESPONSE + 1)
        except zlib.error as exc:
            raise InvalidResponse(
                f"{self.where}: the response claims to be gzip, and is not"
            ) from exc
        if len(unpacked) > MAX_RESPONSE:
            raise BackendError(
                f"{self.where}: a response of more than {MAX_RESPONSE} bytes, unpacked"
            )
        return unpacked


@contextmanager
def translate_errors(reader: ResponseReader) -> Iterator[None]:
    """Turn the client library's errors into ours; their messages quote no request."""
    try:
        yield
    except httpx.ConnectTimeout as exc:
        raise BackendTimeout(
            f"{reader.where}: no connection in {reader.connect_timeout:.3g} s "
            f"(stage: connect); {_limiting_option(reader, connecting=True)}"
        ) from exc
    except (httpx.TimeoutException, TimeoutError) as exc:
        raise BackendTimeout(
            f"{reader.where}: no complete response in {reader.seconds:.3g} s "
            f"(stage: {reader.stage}); {_limiting_option(reader)}"
        ) from exc
    except httpx.InvalidURL as exc:
        raise ConfigError(f"`base_url` can't be used: {exc}") from exc
    except httpx.TransportError as exc:
        # The message quotes what is not HTTP, which may hold one of our texts.
        raise _connection_error(reader, exc) from (None if _is_not_http(exc) else exc)
    except RuntimeError as exc:
        if "closed" not in str(exc):
            raise
        raise BackendUnavailable(f"{reader.where}: the backend was closed during the call") from exc


def _limiting_option(reader: ResponseReader, *, connecting: bool = False) -> str:
    """Name the option whose time was too short."""
    if connecting and reader.connect_timeout < reader.seconds:
        return "the limit is `connect_timeout`"
    return "the limit is `timeout`, or the `deadline` of a wrapper"


def _connection_error(reader: ResponseReader, exc: httpx.TransportError) -> BackendError:
    where = reader.where
    causes = list(_causes(exc))
    for cause in causes:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, _CLOSED_TLS):
            return BackendError(f"{where}: no trusted encryption: {cause.reason or cause}")
    reason = (str(exc) or str(causes[-1]) or type(exc).__name__)[:200]
    if _HEADERS_TOO_LONG.search(reason):
        return BackendError(f"{where}: the headers of the response are too long")
    if _is_not_http(exc):
        return InvalidResponse(f"{where}: the response is not HTTP; check `base_url`")
    hint = ""
    if isinstance(exc, httpx.ConnectError):
        hint = f"; is it running? Try: rerank-plugins doctor {reader.origin}"
    return BackendUnavailable(f"{where}: no connection: {reason}{hint}")


def _is_not_http(exc: httpx.TransportError) -> bool:
    return isinstance(exc, httpx.RemoteProtocolError) and not _CLOSED.search(str(exc))


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__
