"""The network under the client library: bounded in time, and in step with the requests.

The library bounds each read, so a response that drips would never end; it bounds no look-up of a
host; and what a server sends unasked it takes for the response to the next request.
"""

from __future__ import annotations

import math
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rerank_plugins._internal.resolver import aresolve, resolve
from rerank_plugins._internal.tls import TLS, Receive, Send, holds_more
from rerank_plugins.backends.http.client import httpcore, httpx

__all__ = ["is_answered", "replace_network", "thread_deadline"]

_WRITE_SIZE = 2**16
_UNASKED = "the server sent something that nobody asked for"

_thread = threading.local()


@contextmanager
def thread_deadline(deadline: float) -> Iterator[None]:
    """Set the deadline of this thread's requests, in seconds of `time.monotonic()`.

    It holds for the blocking transports that `replace_network()` prepared.
    """
    _thread.deadline = deadline
    try:
        yield
    finally:
        del _thread.deadline


def replace_network(transport: httpx.HTTPTransport | httpx.AsyncHTTPTransport) -> None:
    """Put the network of this module under a transport of the library."""
    # The library has no option for the network, but its core does; `test_client.py` names these
    # internals, and pyproject.toml bounds the versions.
    if isinstance(transport, httpx.HTTPTransport):
        pool = transport._pool  # noqa: SLF001  # see above
        pool._network_backend = _Network(pool._network_backend)  # noqa: SLF001  # see above
    else:
        apool = transport._pool  # noqa: SLF001  # see above
        apool._network_backend = _AsyncNetwork(apool._network_backend)  # noqa: SLF001  # see above


def is_answered(response: httpx.Response) -> bool:
    """Whether anything arrived on the connection between the request and its response.

    If not, the response is the rest of what came with an earlier one.
    """
    stream = response.extensions["network_stream"]
    return not isinstance(stream, _Stream | _AsyncStream) or stream.has_read


def _remaining(timeout: float | None, expired: type[Exception]) -> float | None:
    """Return the shorter of `timeout` and the time until the deadline, in seconds."""
    remaining = getattr(_thread, "deadline", math.inf) - time.monotonic()
    if remaining <= 0:
        raise expired
    if timeout is None:
        return None if math.isinf(remaining) else remaining
    return min(timeout, remaining)


class _Turns:
    """The addresses of a host, each with an equal share of the time that is left."""

    def __init__(self, host: str, timeout: float | None) -> None:
        self._host = host
        self._end = math.inf if timeout is None else time.monotonic() + timeout

    @property
    def seconds(self) -> float | None:
        """The time that is left; None is no limit."""
        return None if math.isinf(self._end) else max(self._end - time.monotonic(), 0.001)

    @contextmanager
    def looking_up(self) -> Iterator[None]:
        """Turn the errors of a look-up into those of the client library."""
        try:
            yield
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout(f"no answer to the look-up of {self._host!r}") from exc
        except OSError as exc:
            raise httpcore.ConnectError(str(exc)) from exc

    def of(self, addresses: list[str]) -> Iterator[tuple[str, float | None, bool]]:
        """Yield each address, its time in seconds, and whether it is the last one."""
        for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            seconds = self.seconds
            yield address, None if seconds is None else seconds / left, left == 1


class _Network(httpcore.NetworkBackend):
    def __init__(self, network: httpcore.NetworkBackend) -> None:
        self._network = network

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        turns = _Turns(host, _remaining(timeout, httpcore.ConnectTimeout))
        with turns.looking_up():
            addresses = resolve(host, turns.seconds)
        for address, seconds, is_last in turns.of(addresses):
            try:
                stream = self._network.connect_tcp(
                    address, port, seconds, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if is_last:
                    raise
            else:
                return _Stream(stream)
        raise httpcore.ConnectError(f"{host!r} has no address")

    def sleep(self, seconds: float) -> None:
        self._network.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream
        self.has_read = False
        """Whether anything was read since the last write."""

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.has_read = True
        return self.receive(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self.has_read and self._holds_more():
            raise httpcore.ReadError(_UNASKED)
        self.has_read = False
        for start in range(0, len(buffer), _WRITE_SIZE):
            self.send(buffer[start : start + _WRITE_SIZE], timeout)

    def receive(self, max_bytes: int, timeout: float | None) -> bytes:
        return self._stream.read(max_bytes, _remaining(timeout, httpcore.ReadTimeout))

    def send(self, data: bytes, timeout: float | None) -> None:
        self._stream.write(data, _remaining(timeout, httpcore.WriteTimeout))

    def _holds_more(self) -> bool:
        """Whether bytes, or the end, arrived that were not read."""
        return bool(self._stream.get_extra_info("is_readable"))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        encrypted = _EncryptedStream(self, self._stream, TLS(ssl_context, server_hostname))
        try:
            encrypted.shake_hands(_remaining(timeout, httpcore.ConnectTimeout))
        except BaseException:
            self.close()
            raise
        return encrypted

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _EncryptedStream(_Stream):
    """A stream whose bytes another one carries: that of a server, or of a proxy before it."""

    def __init__(self, carrier: _Stream, stream: httpcore.NetworkStream, tls: TLS) -> None:
        super().__init__(stream)
        self._carrier = carrier
        self._tls = tls

    def shake_hands(self, timeout: float | None) -> None:
        end = None if timeout is None else time.monotonic() + timeout

        def left() -> float | None:
            return None if end is None else max(end - time.monotonic(), 0.001)

        try:
            self._tls.shake_hands(
                lambda size: self._carrier.receive(size, left()),
                lambda data: self._carrier.send(data, left()),
            )
        except (httpcore.ReadTimeout, httpcore.WriteTimeout) as exc:
            raise httpcore.ConnectTimeout(str(exc)) from exc
        except (httpcore.ReadError, httpcore.WriteError, ssl.SSLError) as exc:
            raise httpcore.ConnectError(str(exc)) from exc

    def receive(self, max_bytes: int, timeout: float | None) -> bytes:
        try:
            return self._tls.read(max_bytes, *self._ends(timeout))
        except ssl.SSLError as exc:
            raise httpcore.ReadError(str(exc)) from exc

    def send(self, data: bytes, timeout: float | None) -> None:
        try:
            self._tls.write(data, *self._ends(timeout))
        except ssl.SSLError as exc:
            raise httpcore.WriteError(str(exc)) from exc

    def _ends(self, timeout: float | None) -> tuple[Receive, Send]:
        return (
            lambda size: self._carrier.receive(size, timeout),
            lambda data: self._carrier.send(data, timeout),
        )

    def _holds_more(self) -> bool:
        return holds_more(self._tls.object) or super()._holds_more()

    def get_extra_info(self, info: str) -> Any:
        return self._tls.object if info == "ssl_object" else super().get_extra_info(info)


class _AsyncNetwork(httpcore.AsyncNetworkBackend):
    def __init__(self, network: httpcore.AsyncNetworkBackend) -> None:
        self._network = network

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # the library's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        turns = _Turns(host, timeout)
        with turns.looking_up():
            addresses = await aresolve(host, turns.seconds)
        for address, seconds, is_last in turns.of(addresses):
            try:
                stream = await self._network.connect_tcp(
                    address, port, seconds, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if is_last:
                    raise
            else:
                return _AsyncStream(stream)
        raise httpcore.ConnectError(f"{host!r} has no address")

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


class _AsyncStream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._tls: ssl.SSLObject | None = stream.get_extra_info("ssl_object")
        self.has_read = False
        """Whether anything was read since the last write."""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  # the library's signature
        self.has_read = True
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109  # the library's signature
        if self.has_read and self._holds_more():
            raise httpcore.ReadError(_UNASKED)
        self.has_read = False
        await self._stream.write(buffer, timeout)

    def _holds_more(self) -> bool:
        """Whether bytes, or the end, arrived that were not read; no socket shows encrypted ones."""
        if self._tls is not None and holds_more(self._tls):
            return True
        return bool(self._stream.get_extra_info("is_readable"))

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the library's signature
    ) -> httpcore.AsyncNetworkStream:
        try:
            stream = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:  # the library does not close it if the call is cancelled
            await self.aclose()
            raise
        return _AsyncStream(stream)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
