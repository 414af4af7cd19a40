"""Sending over HTTP: pooled clients, one total deadline, one free try for dead connections."""

from __future__ import annotations

import asyncio
import os
import ssl
import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, NamedTuple, TypeAlias, TypeVar

import httpx

from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins.backends.http.deadline import bind, deadline_of_thread
from rerank_plugins.backends.http.responses import Incoming, Reply, Request, translated
from rerank_plugins.errors import ConfigError

__all__ = ["Asking", "Transport"]

# Uvicorn, under most rerank servers, closes idle connections after 5 s: we must be first.
_CONNECTIONS = 100
_LIMITS = httpx.Limits(
    max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS, keepalive_expiry=4.0
)

Asking: TypeAlias = Generator[tuple[Request, float], Reply, list[float]]
"""Yields requests with their deadlines, gets the replies, and returns the scores."""

_Client = TypeVar("_Client", httpx.Client, httpx.AsyncClient)


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

    def run(self, asking: Asking) -> list[float]:
        """Send what `asking` wants, one after the other; what fails is raised inside it."""
        proceed: Callable[[Any], tuple[Request, float]] = asking.send
        value: Any = None
        while True:
            try:
                request, deadline = proceed(value)
            except StopIteration as stop:
                return _returned(stop)
            try:
                proceed, value = asking.send, self.send(request, deadline)
            except BaseException as error:  # noqa: BLE001  # the asking decides what it means
                proceed, value = asking.throw, error

    async def arun(self, asking: Asking) -> list[float]:
        """Like `run`, on the running event loop."""
        proceed: Callable[[Any], tuple[Request, float]] = asking.send
        value: Any = None
        while True:
            try:
                request, deadline = proceed(value)
            except StopIteration as stop:
                return _returned(stop)
            try:
                proceed, value = asking.send, await self.asend(request, deadline)
            except BaseException as error:  # noqa: BLE001  # the asking decides, also when cancelled
                proceed, value = asking.throw, error

    def send(self, request: Request, deadline: float) -> Reply:
        """Return the reply; `deadline` is in seconds of `time.monotonic()`.

        Raises:
            BackendTimeout: no connection within `connect_timeout`, no whole reply by `deadline`.
            BackendUnavailable: there is no connection, or it broke.
            BackendError: no trusted encryption with this server, or a reply that is too large.
            InvalidResponse: what came back is not HTTP.
            ConfigError: the certificates or the proxies can't be used.
        """
        incoming = Incoming(request, deadline, self._connect_timeout)
        with translated(incoming), deadline_of_thread(deadline):
            shared = self._shared()  # kept, so that `close` waits for this call
            with incoming.dead_connection_forgiven():
                _receive(shared.client, incoming)
            if incoming.forgiven:
                fresh = _Shared(_new(httpx.Client, self._trusted(self._here())))
                _receive(fresh.client, incoming)
        return incoming.reply()

    async def asend(self, request: Request, deadline: float) -> Reply:
        """Like `send`, on the running event loop; a cancelled call closes its connection."""
        incoming = Incoming(request, deadline, self._connect_timeout)
        incoming.stage = "queue"
        with translated(incoming):
            async with asyncio.timeout(incoming.left):
                held = await self._held()
                async with held.slots:
                    incoming.stage = "read"
                    with incoming.dead_connection_forgiven():
                        await _areceive(held.client, incoming)
                    if incoming.forgiven:
                        trusted = self._trusted(self._here())
                        async with _new(httpx.AsyncClient, trusted) as fresh:
                            await _areceive(fresh, incoming)
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

    async def _held(self) -> _Held:
        pools, loop = self._here(), asyncio.get_running_loop()
        held = pools.loops.get(loop)
        if held is None or held.client.is_closed:
            with pools.lock:
                trusted = self._trusted(pools)
                for closed in [other for other in pools.loops if other.is_closed()]:
                    del pools.loops[closed]
            lifetime = _lifetime(trusted)
            held = _Held(await anext(lifetime), lifetime, asyncio.Semaphore(_CONNECTIONS))
            with pools.lock:
                pools.loops[loop] = held
        return held

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


def _returned(stop: StopIteration) -> list[float]:
    scores: list[float] = stop.value
    return scores


class _Shared:
    """A client that closes when nobody holds this any more, or Python ends."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        bind(client)
        weakref.finalize(self, client.close)


class _Held(NamedTuple):
    """The client of an event loop."""

    client: httpx.AsyncClient
    lifetime: AsyncGenerator[httpx.AsyncClient, None]
    slots: asyncio.Semaphore
    """One for each connection: a thousand callers wait here in turn, for next to nothing. In
    httpx's own queue the wait of each costs all others some work."""


@dataclass
class _Pools:
    """The clients of one process."""

    lock: ForkSafeLock = field(default_factory=ForkSafeLock)
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


def _receive(client: httpx.Client, incoming: Incoming) -> None:
    def trace(event: str, _: object) -> None:
        incoming.note(event)

    with closing(client.send(incoming.request(trace), stream=True)) as response:
        for chunk in incoming.begin(response).iter_raw():
            incoming.add(chunk)


async def _areceive(client: httpx.AsyncClient, incoming: Incoming) -> None:
    async def trace(event: str, _: object) -> None:
        incoming.note(event)

    async with aclosing(await client.send(incoming.request(trace), stream=True)) as response:
        async for chunk in incoming.begin(response).aiter_raw():
            incoming.add(chunk)
