"""What every request passes before and after the routes: identity, rates, metrics, errors."""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
import uuid
from time import monotonic

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rerank_plugins.server.auth import Authenticator, Refusal
from rerank_plugins.server.client_address import client_address, rate_key
from rerank_plugins.server.errors import Problem, reply
from rerank_plugins.server.metrics import ServerMetrics
from rerank_plugins.server.rate_limit import RateLimiter, Verdict
from rerank_plugins.server.settings import ServerSettings

__all__ = ["CROWDED", "PROBES", "PUBLIC", "Edge"]

_log = logging.getLogger(__name__)

PUBLIC = frozenset({"/livez", "/readyz", "/v1/cluster/auth", "/ui"})
"""The paths that need no key. The third only says whether others do, as Xinference's does; the page
holds nothing but itself."""

PROBES = frozenset({"/livez", "/readyz", "/metrics"})
"""The paths that are not limited: to refuse a probe would only hide an overload."""

CROWDED = "rerank_plugins.crowded"
"""The key of a request's state that says whether there are too many connections."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Edge:
    """The outermost layer: it denies by default, whatever routes there are.

    It reads the path that the server received, never a URL put together from headers.
    """

    def __init__(
        self, app: ASGIApp, *, settings: ServerSettings, auth: Authenticator, metrics: ServerMetrics
    ) -> None:
        self._app = app
        self._auth = auth
        self._metrics = metrics
        self._trusted = settings.trusted_networks()
        self._by_client = _limiter(settings.client_rate)
        self._by_address = _limiter(settings.address_rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = monotonic()
        headers = Headers(scope=scope)
        request_id = headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        scope["state"] = {**scope.get("state", {}), "request_id": request_id, "client": "-"}
        status = 500
        added: dict[str, str] = {"X-Request-ID": request_id}

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(added)
            await send(message)

        self._metrics.inflight.inc()
        try:
            added |= self._admit(scope, headers)
            await self._app(scope, receive, send_on)
        except asyncio.CancelledError:  # by uvicorn, which has waited long enough to end
            if status == 500:  # noqa: PLR2004  # nothing was sent yet
                late = Problem(
                    503, "shutting_down", "the server is ending", retry_after=1, close=True
                )
                await reply(late, request_id)(scope, receive, send_on)
            raise
        except Problem as problem:  # raised before the routes
            await reply(problem, request_id)(scope, receive, send_on)
        except Exception as error:  # noqa: BLE001  # a bug of ours; the client gets an answer
            _log.error("request %s failed:\n%s", request_id, _frames(error))
            bug = Problem(500, "internal_error", "the server failed; its log says where")
            if status == 500:  # noqa: PLR2004  # nothing was sent yet
                await reply(bug, request_id)(scope, receive, send_on)
        finally:
            self._metrics.inflight.dec()
            self._count(scope, status, monotonic() - began)

    def _admit(self, scope: Scope, headers: Headers) -> dict[str, str]:
        """Return what the reply's headers add about rates.

        Raises:
            Problem: too many connections or requests, or no valid key.
        """
        path = scope["path"]
        if scope["state"].get(CROWDED) and path not in PROBES:
            self._metrics.rejected.labels("too_many_connections").inc()
            raise Problem(
                503,
                "too_many_connections",
                "there are too many connections; try again later",
                retry_after=1,
                close=True,
            )
        address = client_address(scope, self._trusted)
        added: dict[str, str] = {}
        if self._by_address is not None and path not in PROBES:
            added |= self._within(self._by_address.hit(rate_key(address)), "address")
        client = f"address:{rate_key(address)}"
        if not self._auth.is_open and path not in PUBLIC:
            client = self._identified(headers)
        scope["state"]["client"] = client
        if self._by_client is not None and path not in PROBES:
            added |= self._within(self._by_client.hit(client), "client")
        return added

    def _identified(self, headers: Headers) -> str:
        try:
            return self._auth.client(headers.getlist("authorization"))
        except Refusal as refusal:
            self._metrics.auth_failures.labels(str(refusal)).inc()
            raise Problem(
                401,
                "unauthorized",
                "send a valid key, as in: Authorization: Bearer KEY",
                headers={"WWW-Authenticate": 'Bearer realm="rerank"'},
            ) from None

    def _within(self, verdict: Verdict, name: str) -> dict[str, str]:
        if verdict.allowed:
            return verdict.headers(name)
        self._metrics.rejected.labels(f"{name}_rate").inc()
        raise Problem(
            429,
            "rate_limited",
            f"the limit is {verdict.limit} requests in {verdict.window} seconds",
            retry_after=verdict.reset,
            headers=verdict.headers(name),
        )

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, _outcome(status)).inc()
        self._metrics.duration.labels(route).observe(seconds)
        state = scope["state"]
        _log.info(
            "%s %s %d %.1f ms, %s, %s",
            scope["method"] if scope["method"].isalpha() else "?",
            route,
            status,
            seconds * 1000,
            state["client"],
            state["request_id"],
        )


def _limiter(rate: str | None) -> RateLimiter | None:
    return None if rate is None else RateLimiter(rate)


def _outcome(status: int) -> str:
    if status < 400:  # noqa: PLR2004  # of HTTP
        return "ok"
    known = {408: "timeout", 429: "rejected", 499: "cancelled", 503: "unavailable", 504: "timeout"}
    return known.get(status, "refused" if status < 500 else "failed")  # noqa: PLR2004  # of HTTP


def _frames(error: Exception) -> str:
    """Return where an error came from, without its message, which may hold a text."""
    return "".join([*traceback.format_tb(error.__traceback__), type(error).__name__])
