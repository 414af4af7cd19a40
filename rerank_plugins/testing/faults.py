"""The ways in which a rerank server fails, for an `FakeServer`."""

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

__all__ = ["cut_short", "drip", "faults", "hang_up", "reset", "silence", "spoil"]

_Results: TypeAlias = list[dict[str, Any]]

_JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_PIECES = 100_000
"""Pieces of a reply that drips: it ends some day, should a test forget to hang up."""
_MEGABYTE = 2**20
_STATUSES = (
    *(400, 401, 402, 403, 404, 405, 408, 413, 422, 424, 429, 498),
    *(500, 501, 502, 503, 504, 529),
)


# Replies that are not whole, or not HTTP


def silence(received: Received) -> Writer:
    """FakeResponse nothing until the client hangs up."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.connection.recv(1)
        handler.close_connection = True

    return write


def hang_up(received: Received) -> Writer:
    """Close the connection in place of an answer."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True

    return write


def reset(received: Received) -> Writer:
    """Reset the connection in place of an answer, as a process does that is killed."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        linger = struct.pack("ii", 1, 0)  # on, for no time at all: the system sends RST
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.connection.close()
        handler.close_connection = True

    return write


def cut_short(received: Received) -> Writer:
    """Close the connection in the middle of the answer."""
    return _sending(_JSON_HEAD + b'Content-Length: 100\r\n\r\n{"results":')


def drip(seconds: float = 0.01, *, head: bool = False) -> Behaviour:
    """Never finish, but send something every few milliseconds.

    No single read takes long, so a limit per read never ends the call.

    Args:
        seconds: between two pieces.
        head: whether the headers drip, or the body.
    """
    start = _JSON_HEAD if head else _JSON_HEAD + b"Content-Length: 1000000\r\n\r\n"

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(start)
        for _ in range(_PIECES):
            time.sleep(seconds)
            handler.wfile.write(b"X-More: 1\r\n" if head else b" ")

    return lambda received: write


def _sending(*pieces: bytes) -> Writer:
    """Return what sends these bytes and closes the connection."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        for piece in pieces:
            handler.wfile.write(piece)
        handler.close_connection = True

    return write


# Replies that are HTTP and JSON, but not one score per document


def spoil(dialect: str, change: Callable[[_Results], object]) -> Behaviour:
    """Return a server of this dialect whose results are changed before they are sent.

    Args:
        dialect: as for `serve_dialect()`.
        change: gets the list of results, objects with an `index` and a score, and changes it.
    """
    right = serve_dialect(dialect)

    def behave(received: Received) -> FakeResponse | Writer:
        answer = right(received) if callable(right) else right
        if isinstance(answer, FakeResponse) and answer.status == 200:
            change(_results(answer.body))
        return answer

    return behave


def _results(body: Any) -> _Results:
    if isinstance(body, list):
        return body
    found: _Results = body["output"]["results"] if "output" in body else next(iter(body.values()))
    return found


def _set(field: str, value: object) -> Callable[[_Results], None]:
    """Return what changes a field of the first result; `"score"` is whatever holds the score."""

    def change(results: _Results) -> None:
        first = results[0]
        name = next(key for key in first if key != "index") if field == "score" else field
        first[name] = value

    return change


def _twice(results: _Results) -> None:
    results[0]["index"] = results[-1]["index"]


@functools.cache
def _bomb() -> bytes:
    """Return 300 MB of nothing, packed to 300 kB; a packed piece is repeated, which is quick."""
    nothing, pieces = bytes(_MEGABYTE), 300
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    piece = packer.compress(nothing) + packer.flush(zlib.Z_FULL_FLUSH)
    check = functools.reduce(lambda crc, _: zlib.crc32(nothing, crc), range(pieces), 0)
    end = packer.flush() + struct.pack("<II", check, pieces * len(nothing))
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + piece * pieces + end


def faults(dialect: str = "cohere") -> dict[str, Behaviour]:
    """Return every way in which a server of this dialect may fail, by a name that says which.

    The list grows between releases; take names from it, not numbers. Those that take time, such
    as `"silence"`, last until the client hangs up.
    """
    right = serve_dialect(dialect)

    def as_answer(received: Received) -> FakeResponse:
        answer = right(received) if callable(right) else right
        if not isinstance(
            answer, FakeResponse
        ):  # pragma: no cover  # `serve_dialect` gives no other
            raise TypeError(dialect)
        return answer

    def mangled(change: Callable[[bytes], FakeResponse]) -> Behaviour:
        return lambda received: change(json.dumps(as_answer(received).body).encode())

    def length_too_short(received: Received) -> FakeResponse:
        return FakeResponse(as_answer(received).body, headers={"Content-Length": "5"})

    def overflowing(received: Received) -> FakeResponse:
        body = as_answer(received).body
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
        "text": mangled(lambda body: FakeResponse(body, content_type="text/plain")),
        "truncated JSON": mangled(lambda body: FakeResponse(body[:-5])),
        "not UTF-8": FakeResponse(b'{"results": "\xff"}'),
        "deep nesting": FakeResponse(b'{"results":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "too many digits": FakeResponse(b'{"results": [' + b"9" * 10_000 + b"]}"),
        "too large": lambda _: FakeResponse(b" " * (33 * _MEGABYTE)),
        "gzip bomb": lambda _: FakeResponse(_bomb(), headers={"Content-Encoding": "gzip"}),
        "false gzip": mangled(
            lambda body: FakeResponse(body, headers={"Content-Encoding": "gzip"})
        ),
        "unknown packing": mangled(
            lambda body: FakeResponse(body, headers={"Content-Encoding": "br"})
        ),
        "error with status 200": FakeResponse({"error": {"message": "out of memory"}}),
        # the results
        "no results": spoil(dialect, lambda results: results.clear()),
        "one too few": spoil(dialect, lambda results: results.pop()),
        "one too many": spoil(dialect, lambda results: results.append(dict(results[0]))),
        "same index twice": spoil(dialect, _twice),
        "index out of range": spoil(dialect, _set("index", 1_000)),
        "negative index": spoil(dialect, _set("index", -1)),
        "fraction as index": spoil(dialect, _set("index", 0.0)),
        "boolean index": spoil(dialect, _set("index", False)),
        "string as index": spoil(dialect, _set("index", "0")),
        "NaN": spoil(dialect, _set("score", math.nan)),
        "infinite score": spoil(dialect, _set("score", math.inf)),
        "overflowing score": overflowing,
        "null score": spoil(dialect, _set("score", None)),
        "string as score": spoil(dialect, _set("score", "0.5")),
        "boolean score": spoil(dialect, _set("score", True)),
        # the status
        **{f"status {status}": FakeResponse({"message": "no"}, status) for status in _STATUSES},
        "redirect": FakeResponse(b"", 307, {"Location": "http://elsewhere.invalid/"}),
    }
