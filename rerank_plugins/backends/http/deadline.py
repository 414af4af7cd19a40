"""A total deadline for blocking HTTP.

The client library bounds each read, so a response that drips would never end.
"""

from __future__ import annotations

import math
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rerank_plugins.backends.http.client import httpcore, httpx

__all__ = ["enforce_deadlines", "thread_deadline"]

_WRITE_SIZE = 2**16

_thread = threading.local()


@contextmanager
def thread_deadline(deadline: float) -> Iterator[None]:
    """Set the deadline of this thread's requests, in seconds of `time.monotonic()`.

    It holds for the clients that `enforce_deadlines()` prepared.
    """
    _thread.deadline = deadline
    try:
        yield
    finally:
        del _thread.deadline


def enforce_deadlines(client: httpx.Client) -> None:
    """Make the client's connections keep the deadline of the thread that uses them."""
    # The library has no option for the network, but its core does; `test_client.py` names these
    # internals, and pyproject.toml bounds the versions.
    for transport in (client._transport, *client._mounts.values()):  # noqa: SLF001  # see above
        if isinstance(transport, httpx.HTTPTransport):
            pool = transport._pool  # noqa: SLF001  # see above
            pool._network_backend = _Network(pool._network_backend)  # noqa: SLF001  # see above


def _remaining(timeout: float | None, expired: type[Exception]) -> float | None:
    """Return the shorter of `timeout` and the time until the deadline, in seconds."""
    remaining = getattr(_thread, "deadline", math.inf) - time.monotonic()
    if remaining <= 0:
        raise expired
    if timeout is None:
        return None if math.isinf(remaining) else remaining
    return min(timeout, remaining)


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
        remaining = _remaining(timeout, httpcore.ConnectTimeout)
        return _Stream(
            self._network.connect_tcp(host, port, remaining, local_address, socket_options)
        )

    def sleep(self, seconds: float) -> None:
        self._network.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _remaining(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _WRITE_SIZE):
            part = buffer[start : start + _WRITE_SIZE]
            self._stream.write(part, _remaining(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        remaining = _remaining(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, remaining))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
