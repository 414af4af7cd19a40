"""The only file that does HTTP: pooled clients, one total deadline, capped replies."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import threading
import time
import weakref
import zlib
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

import httpx

from rerank_plugins.backends._deadline import bind, deadline_of_thread
from rerank_plugins.errors import (
    BackendError,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    InvalidResponse,
)

__all__ = ["Reply", "Request", "Transport"]

MAX_REPLY = 32 * 2**20
"""Largest reply in bytes, packed or unpacked; 10,000 scores take less than a megabyte."""

# Uvicorn, under most rerank servers, closes idle connections after 5 s: we must be first.
_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100, keepalive_expiry=4.0)
_GZIP = 31  # zlib's number for it
_HUNG_UP = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
_CUT = re.compile("closed|disconnected")

_Client = TypeVar("_Client", httpx.Client, httpx.AsyncClient)


class Request(NamedTuple):
    """One HTTP request."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes = b""


class Reply(NamedTuple):
    """What came back, whole and unpacked."""

    status: int
    headers: Mapping[str, str]
    """Found by names in any case."""
    content: bytes


class Transport:
    """Sends requests over pooled connections; threads, event loops and forks may share it.

    There is one client for all threads and one for each running event loop; the latter closes
    when `asyncio.run` ends its loop. Redirects and cookies are off. Proxies and certificate
    stores that the environment names are used, as httpx does by default.

    Args:
        connect_timeout: seconds to wait for a connection.
        verify: whether to check certificates, or the file or folder of the CAs to trust; None
            loads none, which is enough for plain http.
    """

    def __init__(self, *, connect_timeout: float, verify: bool | str | None) -> None:
        self._connect_timeout = connect_timeout
        self._verify = verify
        self._pools: dict[int, _Pools] = {}

    def send(self, request: Request, deadline: float) -> Reply:
        """Return the reply; `deadline` is in seconds of `time.monotonic()`.

        Raises:
            BackendTimeout: no connection within `connect_timeout`, no whole reply by `deadline`.
            BackendUnavailable: there is no connection, or it broke.
            BackendRejected: no trusted encryption with this server.
            InvalidResponse: what came back is not HTTP, or too large.
            ConfigError: the certificates or the proxies can't be used.
        """
        incoming = _Incoming(request, deadline, self._connect_timeout)
        with _translated(incoming), deadline_of_thread(deadline):
            shared = self._shared()  # kept, so that `close` waits for this call
            with closing(shared.client.send(incoming.request(), stream=True)) as response:
                for chunk in incoming.begin(response).iter_raw():
                    incoming.add(chunk)
        return incoming.reply()

    async def asend(self, request: Request, deadline: float) -> Reply:
        """Like `send`, on the running event loop; a cancelled call closes its connection."""
        incoming = _Incoming(request, deadline, self._connect_timeout)
        with _translated(incoming):
            async with asyncio.timeout(incoming.left):
                client = await self._aclient()
                async with aclosing(await client.send(incoming.request(), stream=True)) as response:
                    async for chunk in incoming.begin(response).aiter_raw():
                        incoming.add(chunk)
        return incoming.reply()

    def close(self) -> None:
        """Close the connections of threads, busy ones after their call.

        Those of an event loop close with the loop.
        """
        self._here().shared = None

    async def aclose(self) -> None:
        """Close the connections of threads and of the running event loop."""
        if held := self._here().loops.pop(asyncio.get_running_loop(), None):
            await held.lifetime.aclose()
        self.close()

    def _here(self) -> _Pools:
        """Return what belongs to this process: a forked child must not share sockets."""
        return self._pools.get(os.getpid()) or self._pools.setdefault(os.getpid(), _Pools())

    def _shared(self) -> _Shared:
        pools = self._here()
        if (shared := pools.shared) is not None:
            return shared
        with pools.lock:
            if pools.shared is None:
                pools.shared = _Shared(_new(httpx.Client, self._trusted(pools)))
            return pools.shared

    async def _aclient(self) -> httpx.AsyncClient:
        pools, loop = self._here(), asyncio.get_running_loop()
        held = pools.loops.get(loop)
        if held is None or held.client.is_closed:
            with pools.lock:
                trusted = self._trusted(pools)
                for closed in [other for other in pools.loops if other.is_closed()]:
                    del pools.loops[closed]
            lifetime = _lifetime(trusted)
            held = _Held(await anext(lifetime), lifetime)
            with pools.lock:
                pools.loops[loop] = held
        return held.client

    def _trusted(self, pools: _Pools) -> ssl.SSLContext:
        """Return the certificates to trust, read once because that takes 20 ms."""
        if pools.trusted is None:
            try:
                pools.trusted = _certificates(self._verify)
            except OSError as exc:  # ssl.SSLError is one
                raise ConfigError(
                    f"can't read certificates from {self._verify!r}: {exc.strerror or exc}"
                ) from exc
        return pools.trusted


class _Shared:
    """A client that closes when nobody holds this any more, or Python ends."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        bind(client)
        weakref.finalize(self, client.close)


class _Held(NamedTuple):
    client: httpx.AsyncClient
    lifetime: AsyncGenerator[httpx.AsyncClient, None]


@dataclass
class _Pools:
    """The clients of one process."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    trusted: ssl.SSLContext | None = None
    shared: _Shared | None = None
    loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Held] = field(
        default_factory=weakref.WeakKeyDictionary
    )


async def _lifetime(trusted: ssl.SSLContext) -> AsyncGenerator[httpx.AsyncClient, None]:
    """Yield a client, and close it when the event loop shuts its generators down.

    `asyncio.run` does that before it closes the loop, so no socket outlives the loop.
    """
    async with _new(httpx.AsyncClient, trusted) as client:
        yield client


def _new(client: type[_Client], trusted: ssl.SSLContext) -> _Client:
    cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # takes none
    try:
        return client(verify=trusted, cookies=cookies, limits=_LIMITS)
    except (ImportError, ValueError) as exc:
        raise ConfigError(f"the proxy that the environment names can't be used: {exc}") from exc


def _certificates(verify: bool | str | None) -> ssl.SSLContext:  # noqa: FBT001  # the option
    if verify is None:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if isinstance(verify, bool):
        return httpx.create_ssl_context(verify=verify)
    if os.path.isdir(verify):  # noqa: PTH112  # the ssl module takes strings too
        return ssl.create_default_context(capath=verify)
    return ssl.create_default_context(cafile=verify)


class _Incoming:
    """A reply on its way in: asks for it, collects it, unpacks it."""

    def __init__(self, request: Request, deadline: float, connect_timeout: float) -> None:
        self.left = max(deadline - time.monotonic(), 0.0)
        self.connect_timeout = min(connect_timeout, self.left)
        self.stage = "read"
        self.where = urlsplit(request.url).netloc
        self._asked = request
        self._response: httpx.Response | None = None
        self._chunks: list[bytes] = []
        self._size = 0

    def request(self) -> httpx.Request:
        timeout = dict.fromkeys(("pool", "read", "write"), self.left)
        return httpx.Request(
            self._asked.method,
            self._asked.url,
            headers={**self._asked.headers, "Accept-Encoding": "gzip"},
            content=self._asked.body,
            extensions={"timeout": {**timeout, "connect": self.connect_timeout}},
        )

    def begin(self, response: httpx.Response) -> httpx.Response:
        self._response = response
        self.stage = "total"
        return response

    def add(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > MAX_REPLY:
            raise InvalidResponse(f"{self.where}: a reply of more than {MAX_REPLY} bytes")

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
            raise InvalidResponse(f"{self.where}: a reply of more than {MAX_REPLY} bytes, unpacked")
        return unpacked


@contextmanager
def _translated(incoming: _Incoming) -> Iterator[None]:
    """Turn what httpx raises into our errors; what they say holds no text of a request."""
    try:
        yield
    except httpx.ConnectTimeout as exc:
        raise BackendTimeout(
            f"{incoming.where}: no connection in {incoming.connect_timeout:.3g} s (stage: connect)"
        ) from exc
    except (httpx.TimeoutException, TimeoutError) as exc:
        raise BackendTimeout(
            f"{incoming.where}: no whole reply in time (stage: {incoming.stage})"
        ) from exc
    except httpx.InvalidURL as exc:
        raise ConfigError(f"`base_url` can't be used: {exc}") from exc
    except httpx.TransportError as exc:
        raise _broken(incoming.where, exc) from exc
    except RuntimeError as exc:
        if "closed" not in str(exc):
            raise
        raise BackendUnavailable(f"{incoming.where}: closed during the call") from exc


def _broken(where: str, exc: httpx.TransportError) -> BackendError:
    causes = list(_causes(exc))
    for cause in causes:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, _HUNG_UP):
            return BackendRejected(f"{where}: no trusted encryption: {cause.reason or cause}")
    reason = (str(exc) or str(causes[-1]) or type(exc).__name__)[:200]
    if isinstance(exc, httpx.RemoteProtocolError) and not _CUT.search(reason):
        return InvalidResponse(f"{where}: the reply is not HTTP: {reason}")
    return BackendUnavailable(f"{where}: no connection: {reason}")


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__
