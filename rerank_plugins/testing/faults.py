"""The ways in which a rerank server fails, for a `FakeServer`."""

from __future__ import annotations

import functools
import json
import math
import socket
import struct
import time
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any, TypeAlias

from rerank_plugins.testing.fake_server import Behaviour, FakeResponse, Received, Writer
from rerank_plugins.testing.protocols import serve_dialect

__all__ = ["corrupt", "cut_short", "drip", "faults", "hang_up", "reset", "silence"]

_Results: TypeAlias = list[dict[str, Any]]

_JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_LISTS = ("results", "data", "rankings")
"""Where a dialect's response holds its results."""
_PIECES = 100_000
"""Bounds a dripping response, in case a test never hangs up."""
_MEGABYTE = 2**20
_STATUSES = (
    *(400, 401, 402, 403, 404, 405, 408, 413, 422, 424, 429, 498),
    *(500, 501, 502, 503, 504, 529),
)


# Responses that are not complete, or not HTTP


def silence(received: Received) -> Writer:
    """Send nothing until the client hangs up."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.connection.recv(1)
        handler.close_connection = True

    return write


def hang_up(received: Received) -> Writer:
    """Close the connection without a response."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True

    return write


def reset(received: Received) -> Writer:
    """Reset the connection without a response, as a killed process does."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        linger = struct.pack("ii", 1, 0)  # zero seconds: the system sends RST
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.connection.close()
        handler.close_connection = True

    return write


def cut_short(received: Received) -> Writer:
    """Close the connection in the middle of the response."""
    return _sending(_JSON_HEAD + b'Content-Length: 100\r\n\r\n{"results":')


def drip(seconds: float = 0.01, *, head: bool = False) -> Behaviour:
    """Send a little at a time and never finish.

    No single read takes long, so a timeout per read never ends the call.

    Args:
        seconds: the pause between two pieces.
        head: drip the headers instead of the body.
    """
    start = _JSON_HEAD if head else _JSON_HEAD + b"Content-Length: 1000000\r\n\r\n"

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(start)
        for _ in range(_PIECES):
            time.sleep(seconds)
            handler.wfile.write(b"X-More: 1\r\n" if head else b" ")

    return lambda received: write


def _sending(*pieces: bytes) -> Writer:
    """Return a writer that sends these bytes and closes the connection."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        for piece in pieces:
            handler.wfile.write(piece)
        handler.close_connection = True

    return write


# Responses that are HTTP and JSON, but not one score per document


def corrupt(dialect: str, change: Callable[[_Results], object]) -> Behaviour:
    """Serve a dialect, but change the results before they are sent.

    Args:
        dialect: as for `serve_dialect()`.
        change: called with the list of results, objects with an `index` and a score; edits it.
            Where a dialect sends numbers alone, what it does to an `index` is lost.
    """
    healthy = serve_dialect(dialect)

    def behave(received: Received) -> FakeResponse:
        response = healthy(received)
        if response.status == 200:
            _change(response.body, change)
        return response

    return behave


def _change(body: Any, change: Callable[[_Results], object]) -> None:
    if isinstance(body, dict) and "scores" in body:
        results = [{"index": at, "score": score} for at, score in enumerate(body["scores"])]
        change(results)
        body["scores"] = [result.get("score") for result in results]
    else:
        change(_results(body))


def _results(body: Any) -> _Results:
    if isinstance(body, list):
        return body
    fields = body.get("output", body)
    results: _Results = next(fields[name] for name in _LISTS if name in fields)
    return results


def _set(field: str, value: object) -> Callable[[_Results], None]:
    """Return a change to a field of the first result; `"score"` means its score."""

    def change(results: _Results) -> None:
        first = results[0]
        name = next(key for key in first if key != "index") if field == "score" else field
        first[name] = value

    return change


def _twice(results: _Results) -> None:
    results[0]["index"] = results[-1]["index"]


@functools.cache
def _bomb() -> bytes:
    """Return 300 MB of zeros as 300 kB of gzip: one compressed block, repeated."""
    zeros, pieces = bytes(_MEGABYTE), 300
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    piece = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    check = functools.reduce(lambda crc, _: zlib.crc32(zeros, crc), range(pieces), 0)
    end = packer.flush() + struct.pack("<II", check, pieces * len(zeros))
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + piece * pieces + end


def faults(dialect: str = "cohere") -> dict[str, Behaviour]:
    """Return every way in which a server of this dialect may fail, by name.

    The list grows between releases, so refer to faults by name. Slow ones such as `"silence"`
    last until the client hangs up.
    """
    healthy = serve_dialect(dialect)

    def resend(change: Callable[[bytes], FakeResponse]) -> Behaviour:
        return lambda received: change(json.dumps(healthy(received).body).encode())

    def length_too_short(received: Received) -> FakeResponse:
        return FakeResponse(healthy(received).body, headers={"Content-Length": "5"})

    def overflowing(received: Received) -> FakeResponse:
        body = healthy(received).body
        _set("score", "overflow")(_results(body))
        return FakeResponse(json.dumps(body).replace('"overflow"', "1e999").encode())

    return {
        # the connection
        "silence": silence,
        "hang-up": hang_up,
        "reset": reset,
        "cut short": cut_short,
        "dripping head": drip(head=True),
        "dripping body": drip(),
        "not HTTP": lambda _: _sending(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        "endless headers": lambda _: _sending(b"HTTP/1.1 200 OK\r\n", b"X-More: 1\r\n" * 100_000),
        "length too short": length_too_short,
        # the body
        "empty body": FakeResponse(b""),
        "no content": FakeResponse(b"", 204),
        "HTML": FakeResponse(b"<html><title>Sign in</title></html>", content_type="text/html"),
        "HTML as JSON": FakeResponse(b"<html><title>Sign in</title></html>"),
        "text": resend(lambda body: FakeResponse(body, content_type="text/plain")),
        "truncated JSON": resend(lambda body: FakeResponse(body[:-5])),
        "not UTF-8": FakeResponse(b'{"results": "\xff"}'),
        "deep nesting": FakeResponse(b'{"results":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "too many digits": FakeResponse(b'{"results": [' + b"9" * 10_000 + b"]}"),
        "too large": lambda _: FakeResponse(b" " * (33 * _MEGABYTE)),
        "gzip bomb": lambda _: FakeResponse(_bomb(), headers={"Content-Encoding": "gzip"}),
        "false gzip": resend(lambda body: FakeResponse(body, headers={"Content-Encoding": "gzip"})),
        "unknown packing": resend(
            lambda body: FakeResponse(body, headers={"Content-Encoding": "br"})
        ),
        "error with status 200": FakeResponse({"error": {"message": "out of memory"}}),
        # the results
        "no results": corrupt(dialect, lambda results: results.clear()),
        "one too few": corrupt(dialect, lambda results: results.pop()),
        "one too many": corrupt(dialect, lambda results: results.append(dict(results[0]))),
        "same index twice": corrupt(dialect, _twice),
        "index out of range": corrupt(dialect, _set("index", 1_000)),
        "negative index": corrupt(dialect, _set("index", -1)),
        "fraction as index": corrupt(dialect, _set("index", 0.0)),
        "boolean index": corrupt(dialect, _set("index", False)),
        "string as index": corrupt(dialect, _set("index", "0")),
        "NaN": corrupt(dialect, _set("score", math.nan)),
        "infinite score": corrupt(dialect, _set("score", math.inf)),
        "overflowing score": overflowing,
        "null score": corrupt(dialect, _set("score", None)),
        "string as score": corrupt(dialect, _set("score", "0.5")),
        "boolean score": corrupt(dialect, _set("score", True)),
        # the status
        **{f"status {status}": FakeResponse({"message": "no"}, status) for status in _STATUSES},
        "redirect": FakeResponse(b"", 307, {"Location": "http://elsewhere.invalid/"}),
    }
