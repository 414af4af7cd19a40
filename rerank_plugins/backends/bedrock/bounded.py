"""Sends boto3's requests so that no response takes more time or memory than it may."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins._internal.optional import require
from rerank_plugins.backends.http.reading import parse_message
from rerank_plugins.errors import BackendError, BackendTimeout, InvalidResponse, RerankError

__all__ = ["BoundedCall", "BoundedSending"]

_MAX_RESPONSE = 1_000_000
"""Bytes; a thousand scores take about 60,000."""
_CHUNK = 65_536
_FIRST_REFUSAL = 300


class BoundedCall:
    """One call in a thread of its own, which another thread can end.

    Args:
        seconds: the time there is.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds
        self._lock = ForkSafeLock()
        self._waits_on: Any = None
        self._is_over = False

    def end(self) -> None:
        """Break the connection on which the call waits for the head of a response.

        The library reads a head to its end, however slowly it comes.
        """
        with self._lock:
            self._is_over = True
            _shut_down(self._waits_on)

    @contextmanager
    def waiting_on(self, connection: Any) -> Iterator[None]:
        """Let the call be ended on a connection of the library in the block."""
        with self._lock:
            self._waits_on = connection.sock
            if self._is_over:
                _shut_down(self._waits_on)
        try:
            yield
        finally:
            with self._lock:
                self._waits_on = None


def _shut_down(sock: Any) -> None:
    if sock is None:
        return
    try:
        # A copy, since another thread reads from what TLS has made of it.
        with socket.socket(fileno=os.dup(sock.fileno())) as copy:
            copy.shutdown(socket.SHUT_RDWR)
    except OSError:  # it is closed already
        pass


class BoundedSending:
    """A handler of botocore's event `before-send`, which sends in its place.

    By itself botocore reads a response to its end, however long it is, and each of its timeouts
    begins anew with every byte.

    Args:
        boto: the client whose requests these are.
        where: which service; messages start with it.
    """

    def __init__(self, boto: Any, where: str) -> None:
        self._session = boto._endpoint.http_session  # noqa: SLF001 - there is no other way to it
        self._where = where
        self._thread = threading.local()
        pools = self._session._pool_classes_by_scheme  # noqa: SLF001 - as above
        for scheme, pool in pools.items():
            pools[scheme] = _endable(pool, lambda: self._thread.call)

    @contextmanager
    def within(self, call: BoundedCall) -> Iterator[None]:
        """Bound the responses to this thread's requests in the block."""
        self._thread.call = call
        try:
            yield
        finally:
            del self._thread.call

    def __call__(self, request: Any, **_: object) -> Any:
        """Return the response to a request, read as far as it may be long.

        Raises:
            BackendTimeout: it takes too long.
            BackendError: it is too long.
            Exception: what botocore raises where the connection fails.
        """
        sent = require("botocore.awsrequest", extra="bedrock")
        self._check_time()
        request.stream_output = True  # botocore then leaves the body to us
        response = self._session.send(request)
        try:
            content = b"".join(self._read(request.url, response.raw))
            self._check_length(request.url, response.headers, content)
        except BaseException:
            response.raw.close()
            raise
        content = self._checked(content, is_refusal=response.status_code >= _FIRST_REFUSAL)
        return sent.AWSResponse(
            response.url, response.status_code, response.headers, _Read(content)
        )

    def _read(self, url: str, raw: Any) -> Iterator[bytes]:
        errors = require("botocore.exceptions", extra="bedrock")
        foreign = require("urllib3.exceptions", extra="bedrock")
        size = 0
        try:
            while chunk := raw.read1(_CHUNK):
                size += len(chunk)
                if size > _MAX_RESPONSE:
                    raise BackendError(f"{self._where}: the response is over {_MAX_RESPONSE} bytes")
                self._check_time()
                yield chunk
        except foreign.ReadTimeoutError as exc:
            raise errors.ReadTimeoutError(endpoint_url=url, error=exc) from exc
        except foreign.HTTPError as exc:
            raise errors.ResponseStreamingError(error=exc) from exc

    def _check_length(self, url: str, headers: Mapping[str, str], content: bytes) -> None:
        """Check that the connection did not break, which botocore does not."""
        errors = require("botocore.exceptions", extra="bedrock")
        length = headers.get("content-length", "")
        if length.isdecimal() and len(content) < int(length):
            raise errors.ConnectionClosedError(endpoint_url=url)

    def _checked(self, content: bytes, *, is_refusal: bool) -> bytes:
        """Return what botocore's parsers can read: an object, as deep as it may be."""
        problem: RerankError | None = None
        try:
            parsed = parse_message(content.decode())
        except ValueError:
            problem = InvalidResponse(f"{self._where}: the response is not valid JSON")
        except BackendError as exc:
            problem = BackendError(f"{self._where}: {exc}")
        else:
            if not isinstance(parsed, dict):
                problem = InvalidResponse(f"{self._where}: the response is no object")
        if problem is not None and not is_refusal:
            raise problem
        return content if problem is None else b"{}"

    def _check_time(self) -> None:
        if time.monotonic() > self._thread.call.deadline:
            raise BackendTimeout(f"{self._where}: no complete response in time")


def _endable(pool: Any, current: Callable[[], BoundedCall]) -> Any:
    """Return a class of connection pools of the library whose connections a call can break."""

    class Connection(pool.ConnectionCls):  # type: ignore[misc]  # not known to the type checker
        def getresponse(self) -> Any:
            with current().waiting_on(self):
                return super().getresponse()

    class Pool(pool):  # type: ignore[misc]  # as above
        ConnectionCls = Connection

    return Pool


class _Read:
    """A body that was read, in the form in which botocore takes one."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self) -> Iterator[bytes]:
        yield self._content
