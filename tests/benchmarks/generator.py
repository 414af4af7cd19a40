"""A load generator in a process: sends requests of many clients, and times the replies."""

from __future__ import annotations

import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Load", "Reply", "generate"]

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_SCORE = re.compile(rb'"(?:relevance_)?score"')
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_PATIENCE = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The requests, how many clients send them, and how often."""

    url: str
    """Of the server, with the path."""
    texts: Sequence[tuple[str, Sequence[str]]]
    """Queries and documents, taken in turns; each query gets a number, so that none comes twice."""
    fields: dict[str, str] = field(default_factory=dict)
    """What else stands in each body."""
    headers: dict[str, str] = field(default_factory=dict)
    """What else is sent before it."""
    clients: int | None = None
    """So many clients, each of which asks again when it has its reply; None is an open loop: new
    requests come at `rate`, whatever became of the last ones."""
    rate: float | None = None
    """Requests per second of all, at random times; None is as fast as the clients can."""
    seconds: float = 0.0
    """For how long new requests are sent."""
    requests: int = 0
    """How many are sent, in place of `seconds`."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One request, from the client's side; times are those of the monotonic clock."""

    number: int
    """What its query begins with."""
    sent: float
    """When it was due, in an open loop."""
    ended: float
    status: int
    """0 if the connection broke, or a document's score is missing."""
    retry_after: bool

    @property
    def seconds(self) -> float:
        """The time from when the request was due to the end of its reply."""
        return self.ended - self.sent


def generate(load: Load) -> list[Reply]:
    """Run a load in a separate process, and return the outcome of each request."""
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(asdict(load)),
        capture_output=True,
        text=True,
        check=True,
    )
    return [Reply(*row) for row in json.loads(done.stdout)]


class _Connection(asyncio.Protocol):
    """A keep-alive connection, with one request at a time."""

    def __init__(self) -> None:
        self.is_open = True
        self._received = bytearray()
        self._reply: asyncio.Future[bytes] | None = None
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    async def ask(self, request: bytes) -> bytes:
        self._received.clear()
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._reply

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._reply is not None and not self._reply.done() and self._is_whole():
            self._reply.set_result(bytes(self._received))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(ConnectionError("the server closed the connection"))

    def close(self) -> None:
        self._transport.close()

    def _is_whole(self) -> bool:
        head = self._received.find(b"\r\n\r\n")
        if head < 0:
            return False
        length = _LENGTH.search(self._received, 0, head)
        if length is None:
            return self._received.endswith(_LAST_CHUNK)
        return len(self._received) >= head + 4 + int(length[1])


class _Clients:
    """All clients of a load."""

    def __init__(self, load: Load) -> None:
        parts = urlsplit(load.url)
        self._address = parts.hostname, parts.port
        self._head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            + "".join(f"{name}: {value}\r\n" for name, value in load.headers.items())
            + "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        fields = "".join(f',"{name}":"{value}"' for name, value in load.fields.items())
        self._bodies = [
            (json.dumps(query)[1:], json.dumps(documents) + fields, len(documents))
            for query, documents in load.texts
        ]
        self._load = load
        self._idle: list[_Connection] = []
        self._random = random.Random(0)
        self.replies: list[Reply] = []

    async def run(self) -> None:
        load = self._load
        until = time.monotonic() + load.seconds if load.seconds else float("inf")
        numbers = iter(range(load.requests or sys.maxsize))
        if load.clients is None:
            await self._open_loop(numbers, until)
        else:
            await asyncio.gather(*[self._client(numbers, until) for _ in range(load.clients)])
        for connection in self._idle:
            connection.close()

    async def _open_loop(self, numbers: Iterator[int], until: float) -> None:
        due = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number in numbers:
                due += self._random.expovariate(self._load.rate or 1.0)
                if due > until:
                    break
                if (early := due - time.monotonic()) > 0:
                    await asyncio.sleep(early)
                tasks.create_task(self._ask(number, due))

    async def _client(self, numbers: Iterator[int], until: float) -> None:
        pause = self._load.clients / self._load.rate if self._load.rate else 0.0  # type: ignore[operator]
        due = time.monotonic() + pause * self._random.random()
        for number in numbers:
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            sent = time.monotonic()
            if sent > until:
                break
            await self._ask(number, sent)
            due = sent + pause * 2 * self._random.random()

    async def _ask(self, number: int, sent: float) -> None:
        status, retry_after = 0, False
        query, documents, count = self._bodies[number % len(self._bodies)]
        body = f'{{"query":"{number} {query},"documents":{documents}}}'.encode()
        try:
            async with asyncio.timeout(_PATIENCE):
                connection = await self._connected()
                reply = await connection.ask(b"%s%d\r\n\r\n%s" % (self._head, len(body), body))
        except OSError:  # also TimeoutError
            pass
        else:
            status = int(reply[9:12])
            retry_after = b"\r\nretry-after:" in reply[:1000].lower()
            if status == 200 and len(_SCORE.findall(reply)) != count:
                status = 0
            if connection.is_open:
                self._idle.append(connection)
        self.replies.append(Reply(number, sent, time.monotonic(), status, retry_after))

    async def _connected(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, *self._address)
        return connection


def _main() -> None:
    import uvloop  # noqa: PLC0415 - only the process needs it, to take little of the processor

    clients = _Clients(Load(**json.load(sys.stdin)))
    uvloop.run(clients.run())
    rows = [(r.number, r.sent, r.ended, r.status, r.retry_after) for r in clients.replies]
    json.dump(rows, sys.stdout)


if __name__ == "__main__":
    _main()
