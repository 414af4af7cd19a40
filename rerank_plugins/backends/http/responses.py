"""One HTTP request, and its reply on the way in: collected, capped, unpacked, or one error."""

from __future__ import annotations

import re
import ssl
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from rerank_plugins.errors import (
    BackendError,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    InvalidResponse,
)

__all__ = ["Incoming", "Reply", "Request", "translated"]

MAX_REPLY = 32 * 2**20
"""Largest reply in bytes, packed or unpacked; 10,000 scores take less than a megabyte."""

_CONNECTING = "connection.connect_tcp.started"
_CUT = re.compile("closed|disconnected")
_DEAD = (httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError)
_ENDLESS = re.compile("buffer too long")
_GZIP = 31  # zlib's number for it
_HUNG_UP = (ssl.SSLEOFError, ssl.SSLZeroReturnError)


class Request(NamedTuple):
    """One HTTP request."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = b""
    server: str = ""
    """Who is asked, as messages say it; "" is the host."""


class Reply(NamedTuple):
    """What came back, whole and unpacked."""

    status: int
    headers: Mapping[str, str]
    """Found by names in any case."""
    content: bytes


class Incoming:
    """A reply on its way in: asks for it, collects it, unpacks it."""

    def __init__(self, request: Request, deadline: float, connect_timeout: float) -> None:
        self.left = max(deadline - time.monotonic(), 0.0)
        self.connect_timeout = min(connect_timeout, self.left)
        self.stage = "read"
        url = urlsplit(request.url)
        self.where = request.server or url.netloc
        self.origin = f"{url.scheme}://{url.netloc}"
        self.forgiven = False
        self._asked = request
        self._connected = False
        self._response: httpx.Response | None = None
        self._chunks: list[bytes] = []
        self._size = 0

    def request(self, trace: Callable[[str, object], object]) -> httpx.Request:
        timeout = dict.fromkeys(("pool", "read", "write"), self.left)
        return httpx.Request(
            self._asked.method,
            self._asked.url,
            headers={**self._asked.headers, "Accept-Encoding": "gzip"},
            content=self._asked.body,
            extensions={
                "timeout": {**timeout, "connect": self.connect_timeout},
                "trace": trace,
            },
        )

    def note(self, event: str) -> None:
        """Hear from httpcore what it does."""
        self._connected |= event == _CONNECTING

    @contextmanager
    def dead_connection_forgiven(self) -> Iterator[None]:
        """Let pass that a used connection died before a reply; set `forgiven` then.

        A server may close an idle connection just as the next request is on its way, and a reply
        that was longer than it said leaves its rest on the connection. Neither says anything about
        this request, and scoring twice does no harm.
        """
        try:
            yield
        except _DEAD as exc:
            if self._connected or self._response is not None or _ENDLESS.search(str(exc)):
                raise
            self.forgiven = True

    def begin(self, response: httpx.Response) -> httpx.Response:
        self._response = response
        self.stage = "total"
        return response

    def add(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > MAX_REPLY:
            raise BackendError(f"{self.where}: a reply of more than {MAX_REPLY} bytes")

    def reply(self) -> Reply:
        response = self._response
        if response is None:
            raise BackendUnavailable(f"{self.where}: no reply")
        content = b"".join(self._chunks)
        packing = response.headers.get("content-encoding", "identity").lower()
        if packing == "gzip":
            content = self._unpacked(content)
        elif packing != "identity":
            raise InvalidResponse(f"{self.where}: a reply packed as {packing[:20]!r}, unasked")
        return Reply(response.status_code, response.headers, content)

    def _unpacked(self, content: bytes) -> bytes:
        unpacker = zlib.decompressobj(_GZIP)
        try:
            unpacked = unpacker.decompress(content, MAX_REPLY + 1)
        except zlib.error as exc:
            raise InvalidResponse(
                f"{self.where}: a reply that claims to be gzip, and is not"
            ) from exc
        if len(unpacked) > MAX_REPLY:
            raise BackendError(f"{self.where}: a reply of more than {MAX_REPLY} bytes, unpacked")
        return unpacked


@contextmanager
def translated(incoming: Incoming) -> Iterator[None]:
    """Turn what httpx raises into our errors; what they say holds no text of a request."""
    try:
        yield
    except httpx.ConnectTimeout as exc:
        raise BackendTimeout(
            f"{incoming.where}: no connection in {incoming.connect_timeout:.3g} s "
            f"(stage: connect); {_limit(incoming, connecting=True)}"
        ) from exc
    except (httpx.TimeoutException, TimeoutError) as exc:
        raise BackendTimeout(
            f"{incoming.where}: no whole reply in {incoming.left:.3g} s "
            f"(stage: {incoming.stage}); {_limit(incoming)}"
        ) from exc
    except httpx.InvalidURL as exc:
        raise ConfigError(f"`base_url` can't be used: {exc}") from exc
    except httpx.TransportError as exc:
        # What is not HTTP stands in the message, and may hold a text of ours.
        raise _broken(incoming, exc) from (None if _is_nonsense(exc) else exc)
    except RuntimeError as exc:
        if "closed" not in str(exc):
            raise
        raise BackendUnavailable(f"{incoming.where}: closed during the call") from exc


def _limit(incoming: Incoming, *, connecting: bool = False) -> str:
    """Say which option set the time that was too short."""
    if connecting and incoming.connect_timeout < incoming.left:
        return "the limit is `connect_timeout`"
    return "the limit is `timeout`, or the `deadline` of a wrapper"


def _broken(incoming: Incoming, exc: httpx.TransportError) -> BackendError:
    where = incoming.where
    causes = list(_causes(exc))
    for cause in causes:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, _HUNG_UP):
            return BackendError(f"{where}: no trusted encryption: {cause.reason or cause}")
    reason = (str(exc) or str(causes[-1]) or type(exc).__name__)[:200]
    if _ENDLESS.search(reason):
        return BackendError(f"{where}: the headers of the reply are too long")
    if _is_nonsense(exc):
        return InvalidResponse(f"{where}: the reply is not HTTP; check `base_url`")
    hint = ""
    if isinstance(exc, httpx.ConnectError):
        hint = f"; is it running? Try: rerank-plugins doctor {incoming.origin}"
    return BackendUnavailable(f"{where}: no connection: {reason}{hint}")


def _is_nonsense(exc: httpx.TransportError) -> bool:
    """Whether the server sent something that is not HTTP."""
    return isinstance(exc, httpx.RemoteProtocolError) and not _CUT.search(str(exc))


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__
