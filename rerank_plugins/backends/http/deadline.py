"""A total deadline for blocking HTTP: httpx bounds each read, so a dripping reply has no end."""

from __future__ import annotations

import math
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx

__all__ = ["bind", "deadline_of_thread"]

_WRITE_SIZE = 2**16

_thread = threading.local()


@contextmanager
def deadline_of_thread(deadline: float) -> Iterator[None]:
    """Bound what bound clients do in this thread; in seconds of `time.monotonic()`."""
    _thread.deadline = deadline
    try:
        yield
    finally:
        del _thread.deadline


def bind(client: httpx.Client) -> None:
    """Make the client's connections keep the deadline of the thread that uses them."""
    # httpx has no public way to hand its pools a network; httpcore's own interface is public.
    for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001  # see above
        if isinstance(transport, httpx.HTTPTransport):
            pool = transport._pool  # noqa: SLF001  # see above
            pool._network_backend = _Network(pool._network_backend)  # noqa: SLF001  # see above


def _left(timeout: float | None, expired: type[Exception]) -> float | None:
    """Return the shorter of `timeout` and what is left of the deadline, in seconds."""
    left = getattr(_thread, "deadline", math.inf) - time.monotonic()
    if left <= 0:
        raise expired
    if timeout is None:
        return None if math.isinf(left) else left
    return min(timeout, left)


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
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._network.connect_tcp(host, port, left, local_address, socket_options))

    def sleep(self, seconds: float) -> None:
        self._network.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _WRITE_SIZE):
            part = buffer[start : start + _WRITE_SIZE]
            self._stream.write(part, _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
