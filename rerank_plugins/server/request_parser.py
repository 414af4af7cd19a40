"""The bytes of a connection as requests: llhttp's events, and what no request may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote

import httptools
from httptools import HttpParserError, HttpParserUpgrade

__all__ = [
    "HEADERS_TOO_LARGE",
    "MAX_HEAD_BYTES",
    "RequestHead",
    "RequestParser",
    "RequestRefused",
    "StopParsing",
]

MAX_HEAD_BYTES = 65_536
_MAX_HEADERS = 100

HEADERS_TOO_LARGE = (
    431,
    "headers_too_large",
    f"the headers are larger than {MAX_HEAD_BYTES // 1024} KiB, or more than {_MAX_HEADERS}",
)


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The head of a request."""

    method: str
    path: str
    raw_path: bytes
    query: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    """Their names in lower case."""
    keep_alive: bool
    expects_continue: bool
    """Whether the client waits for a word before it sends the body."""
    size: int
    """Bytes, about."""


class Receiver(Protocol):
    """What gets the requests; each method may raise `StopParsing`."""

    def begin_request(self) -> None:
        """Note the first byte of a request."""

    def receive_head(self, head: RequestHead) -> None:
        """Take the head of the request."""

    def receive_body(self, body: bytes) -> None:
        """Take a part of its body."""

    def end_request(self) -> None:
        """Note that it is complete."""


class StopParsing(Exception):
    """Ends the parser from within."""


class RequestRefused(Exception):
    """The bytes are no valid request, or one that no server of ours takes.

    Args:
        status: the HTTP status.
        type: a word for programs.
        message: a sentence for people, without anything from the request.
    """

    def __init__(self, status: int, type: str, message: str) -> None:  # noqa: A002  # of APIError
        super().__init__(status, type, message)
        self.status = status
        self.type = type
        self.message = message


class RequestParser:
    """Parses what arrives on a connection.

    Args:
        receiver: gets the requests, as far as they came; `close` forgets it.
    """

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._llhttp = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._size = 0
        self._has_head = False
        """Whether the head of the request is complete."""
        self._upgrade = False
        """Whether the parser stops after this head, since the client proposes another protocol."""
        self._refused: tuple[int, str, str] | None = None
        """What is wrong with a request, if it is not its syntax."""

    def close(self) -> None:
        """Let go of the receiver and of llhttp's parser, which refer to each other."""
        del self._receiver, self._llhttp

    def feed(self, data: bytes) -> None:
        """Parse what came.

        Raises:
            RequestRefused: it is not valid, or the receiver wants no more.
        """
        try:
            self._llhttp.feed_data(data)
        except HttpParserUpgrade as upgrade:
            head, rest = self._head_without_upgrade(), data[upgrade.args[0] :]
            self._llhttp = httptools.HttpRequestParser(self)
            self.feed(head)
            self.feed(rest)
        except HttpParserError:
            refused = self._refused or (400, "bad_request", "this is not a valid HTTP/1.1 request")
            raise RequestRefused(*refused) from None

    def _head_without_upgrade(self) -> bytes:
        """Return the head that the parser stopped at, as if the client proposed no other protocol.

        llhttp takes what follows such a head for that protocol; a server that does not speak it
        responds in HTTP (RFC 9110, 7.8), and reads the body.
        """
        version = self._llhttp.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self._llhttp.get_method(), self._url, version)]
        for name, value in self._headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                kept = b", ".join(each for each in options if each.lower() != b"upgrade")
                lines.append(name + b": " + kept)
            elif name != b"upgrade":
                lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])

    # As llhttp sees it

    def on_message_begin(self) -> None:
        self._receiver.begin_request()
        self._has_head = False
        self._url = b""
        self._headers = []
        self._size = 0

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._has_head:
            return  # a trailer
        self._headers.append((name.lower(), value.rstrip(b" \t")))  # llhttp strips the left
        self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        method = self._llhttp.get_method()
        if method == b"CONNECT":
            self._refuse(405, "wrong_method", "this server is no proxy")
        version = self._llhttp.get_http_version()
        hosts = sum(name == b"host" for name, _ in self._headers)
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            self._refuse(400, "bad_host", "a request has one header `Host`")
        if any(n == b"transfer-encoding" and v.lower() != b"chunked" for n, v in self._headers):
            self._refuse(
                501, "unknown_encoding", "send the body in no Transfer-Encoding but chunked"
            )
        self._upgrade = self._llhttp.should_upgrade()
        if self._upgrade:
            return
        self._has_head = True
        url = httptools.parse_url(self._url)
        self._receiver.receive_head(
            RequestHead(
                method=method.decode("ascii"),
                path=unquote(url.path.decode("ascii")),
                raw_path=url.path,
                query=url.query or b"",
                version=version,
                headers=self._headers,
                keep_alive=version == "1.1" and self._llhttp.should_keep_alive(),
                expects_continue=version == "1.1"
                and any(n == b"expect" and v.lower() == b"100-continue" for n, v in self._headers),
                size=self._size,
            )
        )

    def on_body(self, body: bytes) -> None:
        self._receiver.receive_body(body)

    def on_message_complete(self) -> None:
        if not self._upgrade:
            self._receiver.end_request()

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > MAX_HEAD_BYTES or len(self._headers) > _MAX_HEADERS:
            self._refuse(*HEADERS_TOO_LARGE)

    def _refuse(self, status: int, type_: str, message: str) -> None:
        self._refused = status, type_, message
        raise StopParsing
