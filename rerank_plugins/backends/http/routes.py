"""Transports that send each request directly, or through the proxy that belongs to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins.backends.http.client import httpx
from rerank_plugins.backends.http.proxies import EnvironmentProxy

__all__ = ["PROXY", "AsyncRoutes", "Routes"]

PROXY = "rerank_plugins.proxy"
"""The extension of a request that holds its proxy, if it has one."""

_Transport = TypeVar("_Transport", httpx.HTTPTransport, httpx.AsyncHTTPTransport)


class _Made(Generic[_Transport]):
    """Transports by their proxies, each made when it is first needed."""

    def __init__(self, make: Callable[[EnvironmentProxy | None], _Transport]) -> None:
        self._make: Callable[[EnvironmentProxy | None], _Transport] = make
        self._made: dict[EnvironmentProxy | None, _Transport] = {}
        self._lock = ForkSafeLock()

    def of(self, request: httpx.Request) -> _Transport:
        proxy: EnvironmentProxy | None = request.extensions.get(PROXY)
        with self._lock:
            if proxy not in self._made:
                self._made[proxy] = self._make(proxy)
            return self._made[proxy]

    def all(self) -> list[_Transport]:
        with self._lock:
            return list(self._made.values())


class Routes(httpx.BaseTransport):
    """For threads.

    Args:
        make: makes the transport for one proxy, or for none.
    """

    def __init__(self, make: Callable[[EnvironmentProxy | None], httpx.HTTPTransport]) -> None:
        self._made = _Made(make)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._made.of(request).handle_request(request)

    def close(self) -> None:
        for transport in self._made.all():
            transport.close()


class AsyncRoutes(httpx.AsyncBaseTransport):
    """Like `Routes`, for an event loop."""

    def __init__(self, make: Callable[[EnvironmentProxy | None], httpx.AsyncHTTPTransport]) -> None:
        self._made = _Made(make)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._made.of(request).handle_async_request(request)

    async def aclose(self) -> None:
        for transport in self._made.all():
            await transport.aclose()
