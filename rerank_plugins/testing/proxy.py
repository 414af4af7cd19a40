"""A TCP proxy that breaks connections as real networks do."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self, TypeAlias
from urllib.parse import urlsplit

__all__ = ["BlackHole", "Cut", "Delay", "Drip", "HalfClose", "LineFault", "Proxy", "Reset"]


@dataclass(frozen=True)
class Delay:
    """Bytes and ends arrive later, in both directions."""

    seconds: float


@dataclass(frozen=True)
class Drip:
    """Replies arrive byte by byte."""

    seconds: float
    """Between two bytes."""


@dataclass(frozen=True)
class Cut:
    """The connection is closed in both directions, as by a proxy that gives up."""

    after: int = 0
    """Bytes of the reply that still arrive."""


@dataclass(frozen=True)
class Reset:
    """The connection is reset, as by a firewall, or a process that is killed."""

    after: int = 0
    """Bytes of the reply that still arrive."""


@dataclass(frozen=True)
class HalfClose:
    """The reply ends early, while the client's bytes are still read."""

    after: int = 0
    """Bytes of the reply that still arrive."""


@dataclass(frozen=True)
class BlackHole:
    """Nothing arrives any more, in either direction, and neither side notices."""

    after: int = 0
    """Bytes of the reply that still arrive."""


LineFault: TypeAlias = Delay | Drip | Cut | Reset | HalfClose | BlackHole
"""What can go wrong on a connection."""


_Deliver: TypeAlias = Callable[[bytes], Coroutine[Any, Any, None]]


class Proxy:
    """A proxy on the loopback interface, in front of a server, for a `with` statement.

    It passes bytes on without parsing them, so it works in front of any server: a
    `FakeServer`, a real rerank server, Redis.

    Args:
        target: the server, as `http://HOST:PORT` or any other URL with a port.
        fault: what goes wrong on the line; None: nothing.

    Raises:
        ValueError: `target` names no host and port.
    """

    def __init__(self, target: str, fault: LineFault | None = None) -> None:
        parts = urlsplit(target)
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"`target` must be a URL with a host and a port, not {target!r}")
        self.fault = fault
        """What goes wrong; may be replaced at any time, and holds for open connections too."""
        self.connections = 0
        """Connections accepted so far."""
        self._target = (parts.hostname, parts.port)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
            """Where it listens."""
        self.url = parts._replace(netloc=f"127.0.0.1:{self.port}").geturl()
        """The target's URL with this proxy in its place."""
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        try:
            self.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def start(self) -> None:
        """Listen again, at the same place."""
        self._do(self._start())

    def stop(self) -> None:
        """Reset all connections and refuse new ones, as a host does whose server is gone."""
        self._do(self._stop())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _start(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._accept, "127.0.0.1", self.port, backlog=1024
            )

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for line in self._lines:
            line.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        client = _End(reader, writer)
        line = asyncio.ensure_future(self._serve(client))
        self._lines.add(line)
        line.add_done_callback(self._lines.discard)
        with suppress(asyncio.CancelledError, OSError):
            await line

    async def _serve(self, client: _End) -> None:
        try:
            server = _End(*await asyncio.open_connection(*self._target))
        except OSError:
            client.reset()
            return
        try:
            await _Line(self, client, server).run()
        except (asyncio.CancelledError, OSError):
            client.reset()
            raise
        finally:
            client.close()
            server.close()


class _End:
    """One end of a line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    async def write(self, data: bytes) -> None:
        """Send `data`; none means the end."""
        if data:
            self._writer.write(data)
            await self._writer.drain()
        elif self._writer.can_write_eof():
            self._writer.write_eof()

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        linger = struct.pack("ii", 1, 0)  # on, for no time at all: the system sends RST
        with suppress(OSError):
            connection: socket.socket = self._writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()


class _Line:
    """A connection through the proxy: bytes up to the server, bytes down to the client."""

    def __init__(self, proxy: Proxy, client: _End, server: _End) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._fault: LineFault | None = None
        self._passed = 0
        """Bytes of the reply that arrived since the present fault began."""

    async def run(self) -> None:
        """Pass bytes until both directions have ended, or the fault ends the line."""
        ways = [
            asyncio.ensure_future(self._carry(self._client.reader, self._up)),
            asyncio.ensure_future(self._carry(self._server.reader, self._down)),
        ]
        try:
            await asyncio.gather(*ways)
        except _LineEnds:
            pass
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _carry(self, source: asyncio.StreamReader, deliver: _Deliver) -> None:
        """Read and deliver side by side, so that a delay is a delay and no brake."""
        under_way: asyncio.Queue[tuple[float, bytes | OSError]] = asyncio.Queue()
        clock = asyncio.get_running_loop().time

        async def read() -> None:
            data: bytes | OSError = b" "
            while data and not isinstance(data, OSError):
                try:
                    data = await source.read(2**16)
                except OSError as error:
                    data = error
                fault = self._proxy.fault
                delay = fault.seconds if isinstance(fault, Delay) else 0.0
                under_way.put_nowait((clock() + delay, data))

        reading = asyncio.ensure_future(read())
        try:
            data: bytes | OSError = b" "
            while data:
                due, data = await under_way.get()
                await asyncio.sleep(due - clock())
                if isinstance(data, OSError):
                    raise data
                await deliver(data)
        finally:
            reading.cancel()

    def _now(self) -> LineFault | None:
        if self._proxy.fault is not self._fault:
            self._fault, self._passed = self._proxy.fault, 0
        return self._fault

    async def _up(self, data: bytes) -> None:
        fault = self._now()
        if not (isinstance(fault, BlackHole) and self._passed >= fault.after):
            await self._server.write(data)

    async def _down(self, data: bytes) -> None:
        match self._now():
            case Drip(seconds):
                for position in range(len(data)):
                    await self._client.write(data[position : position + 1])
                    await asyncio.sleep(seconds)
                if not data:
                    await self._client.write(data)
            case Cut(after) | Reset(after) | HalfClose(after) | BlackHole(after) as fault:
                rest = after - self._passed
                self._passed += len(data)
                if data[: max(rest, 0)]:
                    await self._client.write(data[:rest])
                if len(data) >= rest or not data:
                    await self._end(fault)
            case _:
                await self._client.write(data)

    async def _end(self, fault: LineFault) -> None:
        match fault:
            case Reset():
                self._client.reset()
                raise _LineEnds
            case Cut():
                raise _LineEnds
            case HalfClose():
                await self._client.write(b"")
                await asyncio.Event().wait()  # drops the rest of the reply
            case BlackHole():
                await asyncio.Event().wait()


class _LineEnds(Exception):
    """A fault ends the line."""
