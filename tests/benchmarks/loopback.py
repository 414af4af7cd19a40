"""A rerank server in a process of its own that answers at once, or after a given time."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

__all__ = ["score_of", "serving"]

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def score_of(query: str, document: str) -> float:
    """Return the score that the server gives: from 0 to 1, and different for each pair."""
    return zlib.crc32(f"{query}\0{document}".encode()) / 2**32


@contextmanager
def serving(*, delay: float = 0.0) -> Iterator[str]:
    """Start the server and give its URL; it answers `delay` seconds after each request."""
    command = [sys.executable, __file__, str(delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"  # type: ignore[union-attr]
        finally:
            process.kill()


def _reply(query: str, documents: Sequence[str]) -> bytes:
    items = [{"index": n, "relevance_score": score_of(query, d)} for n, d in enumerate(documents)]
    return json.dumps({"id": "1", "results": items}).encode()


async def _main(delay: float) -> None:
    """Listen on a free port of the loopback interface, and print it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = _LENGTH.search(head)
                asked = json.loads(await reader.readexactly(int(length[1]))) if length else {}
                body = _reply(asked.get("query", ""), asked.get("documents", ()))
                if delay:
                    await asyncio.sleep(delay)
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
                    b"content-length: %d\r\n\r\n%s" % (len(body), body)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has hung up
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - the parent reads it
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(float(sys.argv[1])))
