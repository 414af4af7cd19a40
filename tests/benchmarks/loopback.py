"""A rerank server that answers at once: prints its port, then serves until it is killed."""

import asyncio
import json
import re

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request of a connection with made-up scores, one per document."""
    while head := await reader.readuntil(b"\r\n\r\n"):
        length = _LENGTH.search(head)
        asked = json.loads(await reader.readexactly(int(length[1]))) if length else {}
        count = len(asked.get("documents", ()))
        items = [{"index": n, "relevance_score": 1 / (n + 2)} for n in range(count)]
        body = json.dumps({"id": "1", "results": items}).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body)
        )
        await writer.drain()


async def main() -> None:
    """Listen on a free port of the loopback interface."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - the parent reads it
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
