"""Connections to Redis that keep one limit of time and of bytes for a whole operation.

The client library bounds each read, so a reply that drips, or never ends a line, would go on.
"""

from __future__ import annotations

import math
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rerank_plugins._internal.resolver import resolve
from rerank_plugins._internal.tls import TLS

__all__ = ["bound_connections", "operation"]

_PART = 2**16
"""Bytes that are sent at once."""

_thread = threading.local()


class _Bounds:
    """What an operation may take.

    Args:
        seconds: its time, which starts anew for each stage of connecting.
        max_bytes: how much it may receive.
    """

    def __init__(self, seconds: float, max_bytes: float) -> None:
        self._seconds = seconds
        self._bytes_left = max_bytes
        self.restart()

    def restart(self) -> None:
        """Give the next stage its time."""
        self._end = time.monotonic() + self._seconds

    def remaining(self) -> float | None:
        """Return the seconds that are left; None is no limit.

        Raises:
            TimeoutError: none are.
        """
        if math.isinf(self._end):
            return None
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the operation takes too long")
        return seconds

    def count(self, received: int) -> None:
        """Count bytes that arrived.

        Raises:
            OSError: there are too many.
        """
        self._bytes_left -= received
        if self._bytes_left < 0:
            raise OSError("the reply is longer than any that was asked for")


@contextmanager
def operation(seconds: float, max_bytes: int) -> Iterator[None]:
    """Bound what this thread does with Redis in the block, over bounded connections."""
    _thread.bounds = _Bounds(seconds, max_bytes)
    try:
        yield
    finally:
        del _thread.bounds


def _bounds() -> _Bounds:
    bounds: _Bounds | None = getattr(_thread, "bounds", None)
    return _Bounds(math.inf, math.inf) if bounds is None else bounds


def bound_connections(redis: Any, pool: Any) -> None:
    """Let a pool of the library `redis` make bounded connections.

    Args:
        redis: the library, which is an extra.
        pool: its `ConnectionPool`, which has made no connection yet.
    """
    # `test_redis.py` shows that the library still connects by these methods.

    class BoundedConnection(redis.Connection):  # type: ignore[misc]  # not known to the type checker
        def _connect(self) -> _BoundedSocket:
            return _BoundedSocket(_connected(self.host, self.port))

    class BoundedTLSConnection(redis.SSLConnection):  # type: ignore[misc]  # as above
        def _connect(self) -> _BoundedSocket:
            plain = _connected(self.host, self.port)
            try:
                return _EncryptedSocket(plain, self.host)
            except BaseException:
                plain.close()
                raise

    encrypted = issubclass(pool.connection_class, redis.SSLConnection)
    pool.connection_class = BoundedTLSConnection if encrypted else BoundedConnection


def _connected(host: str, port: int) -> socket.socket:
    bounds = _bounds()
    bounds.restart()
    addresses = resolve(host, bounds.remaining())
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        seconds = bounds.remaining()
        try:
            connection = socket.create_connection(
                (address, port), None if seconds is None else seconds / left
            )
        except OSError:
            if left == 1:
                raise
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
    raise OSError("the host has no address")


class _BoundedSocket:
    """As much of a socket as the library uses, within the bounds of the operation."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._timeout: float | None = None
        _bounds().restart()

    def settimeout(self, seconds: float | None) -> None:
        self._timeout = seconds

    def recv(self, size: int) -> bytes:
        self._limit()
        data = self._connection.recv(size)
        _bounds().count(len(data))
        return data

    def recv_into(self, buffer: Any) -> int:
        self._limit()
        received = self._connection.recv_into(buffer)
        _bounds().count(received)
        return received

    def sendall(self, data: bytes) -> None:
        for start in range(0, len(data), _PART):  # each within the time of one step
            self._limit()
            self._connection.sendall(data[start : start + _PART])

    def _limit(self) -> None:
        if self._timeout == 0:  # it only asks whether there is something
            self._connection.settimeout(0)
            return
        times = [time for time in (self._timeout, _bounds().remaining()) if time is not None]
        self._connection.settimeout(min(times, default=None))

    def getsockname(self) -> Any:
        return self._connection.getsockname()

    def getpeername(self) -> Any:
        return self._connection.getpeername()

    def fileno(self) -> int:
        return self._connection.fileno()

    def shutdown(self, how: int) -> None:
        self._connection.shutdown(how)

    def close(self) -> None:
        self._connection.close()


class _EncryptedSocket(_BoundedSocket):
    """A bounded socket with TLS, by the certificates that the system trusts."""

    def __init__(self, connection: socket.socket, host: str) -> None:
        super().__init__(connection)
        self._tls = TLS(ssl.create_default_context(), host)
        self._tls.shake_hands(super().recv, super().sendall)
        _bounds().restart()

    def recv(self, size: int) -> bytes:
        return self._tls.read(size, super().recv, super().sendall)

    def recv_into(self, buffer: Any) -> int:
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def sendall(self, data: bytes) -> None:
        self._tls.write(data, super().recv, super().sendall)
