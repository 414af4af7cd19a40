"""Sends over HTTP: pooled clients, one total deadline, a second try for stale connections."""

from __future__ import annotations

import asyncio
import os
import ssl
import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing
from dataclasses import dataclass, field
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import NamedTuple, TypeAlias, TypeVar

from rerank_plugins._internal import flow
from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins._internal.secret import Secret
from rerank_plugins.backends.http.client import httpx
from rerank_plugins.backends.http.failures import FOREIGN, strip, translated
from rerank_plugins.backends.http.network import replace_network, thread_deadline
from rerank_plugins.backends.http.proxies import (
    GO_AROUND,
    EnvironmentProxies,
    EnvironmentProxy,
)
from rerank_plugins.backends.http.responses import (
    LOCATION,
    HTTPRequest,
    HTTPResponse,
    ResponseReader,
)
from rerank_plugins.backends.http.routes import PROXY, AsyncRoutes, Routes
from rerank_plugins.errors import BackendUnavailable, ConfigError
from rerank_plugins.scores import Scores

__all__ = ["Exchange", "Transport"]

# Uvicorn, under most rerank servers, closes idle connections after 5 s: we must close them first.
_CONNECTIONS = 100
_LIMITS = httpx.Limits(
    max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS, keepalive_expiry=4.0
)

_Client = TypeVar("_Client", httpx.Client, httpx.AsyncClient)
_HTTPTransport = TypeVar("_HTTPTransport", httpx.HTTPTransport, httpx.AsyncHTTPTransport)

Exchange: TypeAlias = Generator[tuple[HTTPRequest, float], HTTPResponse, Scores]
"""Yields requests with their deadlines, receives the responses, and returns the scores."""


class Transport:
    """Sends requests over pooled connections; threads, event loops and forks may share it.

    There is one client for all threads and one for each running event loop; the latter closes
    when `asyncio.run` ends its loop. Redirects and cookies are off. The proxies and certificates
    that the environment names are used.

    Args:
        connect_timeout: seconds to wait for a connection.
        verify: whether to check certificates, or the file or folder of the CAs to trust; None
            loads no certificates, which is enough for plain http.
    """

    def __init__(self, *, connect_timeout: float, verify: bool | str | None) -> None:
        self._connect_timeout = connect_timeout
        self._verify = verify
        self._clients: dict[int, _ProcessClients] = {}

    def run(self, exchange: Exchange) -> Scores:
        """Send the requests of an exchange one by one; errors are raised inside it."""
        return flow.run(exchange, lambda step: self.send(*step))

    async def arun(self, exchange: Exchange) -> Scores:
        """Like `run`, on the running event loop."""
        return await flow.arun(exchange, lambda step: self.asend(*step))

    def send(self, request: HTTPRequest, deadline: float) -> HTTPResponse:
        """Return the response; `deadline` is in seconds of `time.monotonic()`.

        Raises:
            BackendTimeout: no connection within `connect_timeout`, or no complete response in time.
            BackendUnavailable: there is no connection, or it broke.
            BackendError: no trusted encryption with this server, or a response that is too large.
            InvalidResponse: the response is not HTTP.
            ConfigError: the certificates or the proxies can't be used.
        """
        reader = ResponseReader(request, deadline, self._connect_timeout)
        reader.proxy = self._here().find_proxy(request.url)
        try:
            with thread_deadline(deadline):
                threads = self._thread_client()  # a reference, so that `close` waits for this call
                with reader.retry_stale_connection():
                    _receive(threads.client, reader)
                if reader.met_stale_connection:
                    fresh = _ThreadClient(_new_client(self._trusted(self._here())))
                    _receive(fresh.client, reader)
        except (*FOREIGN, RuntimeError) as exc:
            error = _ours(exc, reader)
        else:
            return reader.finish()
        raise error  # outside of the handler: else it would hold on to what it is made of

    async def asend(self, request: HTTPRequest, deadline: float) -> HTTPResponse:
        """Like `send`, on the running event loop; a cancelled call closes its connection."""
        reader = ResponseReader(request, deadline, self._connect_timeout)
        reader.stage = "queue"
        reader.proxy = self._here().find_proxy(request.url)
        try:
            async with asyncio.timeout(reader.seconds):
                loop_client = await self._loop_client()
                async with loop_client.slots:
                    reader.stage = "read"
                    with reader.retry_stale_connection():
                        await _areceive(loop_client.client, reader)
                    if reader.met_stale_connection:
                        async with _new_async_client(self._trusted(self._here())) as fresh:
                            await _areceive(fresh, reader)
        except (*FOREIGN, RuntimeError) as exc:
            error = _ours(exc, reader)
        else:
            return reader.finish()
        raise error

    def close(self) -> None:
        """Close the connections of threads, busy ones after their call.

        Those of an event loop close with the loop.
        """
        here = self._here()
        here.threads = here.proxies = None

    async def aclose(self) -> None:
        """Close the connections of threads and of the running event loop."""
        if loop_client := self._here().loops.pop(asyncio.get_running_loop(), None):
            await loop_client.lifetime.aclose()
        self.close()

    def _here(self) -> _ProcessClients:
        """Return the clients of this process: a forked child must not share sockets."""
        process = os.getpid()
        return self._clients.get(process) or self._clients.setdefault(process, _ProcessClients())

    def _thread_client(self) -> _ThreadClient:
        clients = self._here()
        if (threads := clients.threads) is not None:
            return threads
        with clients.lock:
            if clients.threads is None:
                clients.threads = _ThreadClient(_new_client(self._trusted(clients)))
            return clients.threads

    async def _loop_client(self) -> _LoopClient:
        clients, loop = self._here(), asyncio.get_running_loop()
        loop_client = clients.loops.get(loop)
        if loop_client is None or loop_client.client.is_closed:
            with clients.lock:
                trusted = self._trusted(clients)
                for closed in [other for other in clients.loops if other.is_closed()]:
                    del clients.loops[closed]
            lifetime = _lifetime(trusted)
            slots = asyncio.Semaphore(_CONNECTIONS)
            loop_client = _LoopClient(await anext(lifetime), lifetime, slots)
            with clients.lock:
                clients.loops[loop] = loop_client
        return loop_client

    def _trusted(self, clients: _ProcessClients) -> ssl.SSLContext:
        """Return the certificates to trust, read once because that takes 20 ms."""
        if clients.trusted is None:
            try:
                clients.trusted = _certificates(self._verify)
            except OSError as exc:  # ssl.SSLError is one
                raise ConfigError(
                    f"can't read certificates from {self._verify!r}: {exc.strerror or exc}"
                ) from exc
        return clients.trusted


class _ThreadClient:
    """The client of all threads; closes when nothing refers to this any more, or Python ends."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        weakref.finalize(self, client.close)


class _LoopClient(NamedTuple):
    """The client of an event loop."""

    client: httpx.AsyncClient
    lifetime: AsyncGenerator[httpx.AsyncClient, None]
    slots: asyncio.Semaphore
    """One for each connection. A thousand callers wait here in turn at almost no cost; in the
    library's own queue each waiting caller costs all the others some work."""


@dataclass
class _ProcessClients:
    """The clients of one process."""

    lock: ForkSafeLock = field(default_factory=ForkSafeLock)
    trusted: ssl.SSLContext | None = None
    proxies: EnvironmentProxies | None = None
    threads: _ThreadClient | None = None
    loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopClient] = field(
        default_factory=weakref.WeakKeyDictionary
    )

    def find_proxy(self, url: str) -> EnvironmentProxy | None:
        """Return the proxy for a URL; the environment is read once."""
        proxies = self.proxies
        if proxies is None:
            proxies = self.proxies = EnvironmentProxies()
        return proxies.find(url)


async def _lifetime(trusted: ssl.SSLContext) -> AsyncGenerator[httpx.AsyncClient, None]:
    """Yield a client, and close it when the event loop shuts its generators down.

    `asyncio.run` does that before it closes the loop, so no socket outlives the loop.
    """
    async with _new_async_client(trusted) as client:
        yield client


def _new_client(trusted: ssl.SSLContext) -> httpx.Client:
    routes = Routes(partial(_new_transport, httpx.HTTPTransport, trusted))
    return _built(httpx.Client, routes, _keep_location)


def _new_async_client(trusted: ssl.SSLContext) -> httpx.AsyncClient:
    async def keep_location(response: httpx.Response) -> None:
        _keep_location(response)

    routes = AsyncRoutes(partial(_new_transport, httpx.AsyncHTTPTransport, trusted))
    return _built(httpx.AsyncClient, routes, keep_location)


def _built(
    client_type: type[_Client], routes: Routes | AsyncRoutes, on_response: Callable[..., object]
) -> _Client:
    return client_type(
        transport=routes,  # type: ignore[arg-type]  # each type gets its own
        cookies=_no_cookies(),
        trust_env=False,
        event_hooks={"response": [on_response]},
    )


def _new_transport(
    transport_type: type[_HTTPTransport], trusted: ssl.SSLContext, proxy: EnvironmentProxy | None
) -> _HTTPTransport:
    """Return what connects to servers directly, or through one proxy."""
    problem = ""
    try:
        transport = transport_type(
            verify=trusted, limits=_LIMITS, proxy=None if proxy is None else proxy.url.reveal()
        )
    except (ImportError, ValueError, httpx.InvalidURL) as exc:
        strip(exc)  # it holds the proxy's password
        problem = str(exc) if isinstance(exc, ImportError) else "its URL can't be read"
    if problem and proxy is not None:
        raise ConfigError(f"{proxy.words} can't be used: {problem}; {GO_AROUND}")
    replace_network(transport)
    return transport


def _no_cookies() -> CookieJar:
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


def _keep_location(response: httpx.Response) -> None:
    """Hide where a redirect leads from the client, which fails if that is no URL."""
    if response.is_redirect and "location" in response.headers:
        response.extensions[LOCATION] = response.headers.pop("location")


def _ours(exc: Exception, reader: ResponseReader) -> Exception:
    if not isinstance(exc, RuntimeError):
        return translated(exc, reader)
    if "closed" not in str(exc):
        return exc
    return BackendUnavailable(f"{reader.where}: the backend was closed during the call")


def _certificates(verify: bool | str | None) -> ssl.SSLContext:  # noqa: FBT001  # the option
    if verify is None:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if isinstance(verify, bool):
        return httpx.create_ssl_context(verify=verify)
    if os.path.isdir(verify):  # noqa: PTH112  # the ssl module takes strings too
        return ssl.create_default_context(capath=verify)
    return ssl.create_default_context(cafile=verify)


def _receive(client: httpx.Client, reader: ResponseReader) -> None:
    def trace(event: str, _: object) -> None:
        reader.trace(event)

    with closing(client.send(_build(reader, trace), stream=True)) as response:
        for chunk in reader.begin(response).iter_raw():
            if not reader.add(chunk):
                break


async def _areceive(client: httpx.AsyncClient, reader: ResponseReader) -> None:
    async def trace(event: str, _: object) -> None:
        reader.trace(event)

    async with aclosing(await client.send(_build(reader, trace), stream=True)) as response:
        async for chunk in reader.begin(response).aiter_raw():
            if not reader.add(chunk):
                break


def _build(reader: ResponseReader, trace: Callable[[str, object], object]) -> httpx.Request:
    request = reader.request
    headers = {
        name: value.reveal() if isinstance(value, Secret) else value
        for name, value in request.headers.items()
    }
    timeout: dict[str, float] = dict.fromkeys(("pool", "read", "write"), reader.seconds)
    timeout["connect"] = reader.connect_timeout
    return httpx.Request(
        request.method,
        request.url,
        headers={**headers, "Accept-Encoding": "gzip"},
        content=request.body,
        extensions={"timeout": timeout, "trace": trace, PROXY: reader.proxy},
    )
