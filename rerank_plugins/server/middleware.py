"""The middleware around all routes: authentication, rates, metrics, logs and errors."""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
import uuid
from time import monotonic

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rerank_plugins.server.auth import KEY_HEADERS, AuthenticationFailed, Authenticator
from rerank_plugins.server.client_address import client_address, rate_key
from rerank_plugins.server.errors import APIError, error_response
from rerank_plugins.server.hosts import is_allowed_host, listens_on_loopback
from rerank_plugins.server.metrics import ServerMetrics
from rerank_plugins.server.paths import route_path
from rerank_plugins.server.rate_limit import RateLimiter, RateLimitResult, parse_rate
from rerank_plugins.server.routes import RerankRoute
from rerank_plugins.server.settings import ServerSettings
from rerank_plugins.server.shares import Places, RequestsInProgress
from rerank_plugins.server.undeclared_proxies import UndeclaredProxies

__all__ = [
    "HEALTH_PATHS",
    "PLACES",
    "PROBE_PATHS",
    "PUBLIC_PATHS",
    "AdmissionMiddleware",
]

_log = logging.getLogger(__name__)

HEALTH_PATHS = frozenset({"/livez", "/readyz", "/health", "/healthz"})
"""The paths without limits: after a refused probe a busy server would be restarted."""

PUBLIC_PATHS = HEALTH_PATHS | {"/", "/v1/cluster/auth", "/ui"}
"""The paths that need no key.

`/v1/cluster/auth` returns whether the others do, as Xinference's does; `/` and the page at `/ui`
hold no data.
"""

PROBE_PATHS = HEALTH_PATHS | {"/metrics"}
"""The paths that respond however busy the server is.

Metrics take time to write, so `address_rate` counts them.
"""

_NO_PLACE = "too_many_connections"
PLACES = "rerank_plugins.places"
"""The key in a request's state: the `Places` there are, if its connection tells."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class AdmissionMiddleware:
    """Admits or refuses each request, whatever routes there are, and records its outcome.

    It stands before FastAPI's routes and dependencies, so that a path without a route needs a key
    too. It reads the path of the request, never a URL put together from headers.
    """

    def __init__(
        self, app: ASGIApp, *, settings: ServerSettings, auth: Authenticator, metrics: ServerMetrics
    ) -> None:
        self._app = app
        self._auth = auth
        self._metrics = metrics
        self._trusted = settings.trusted_networks()
        self._undeclared_proxies = UndeclaredProxies()
        self._allowed_hosts = settings.allowed_hosts
        self._by_client = _limiter("client_rate", settings.client_rate)
        self._by_address = _limiter("address_rate", settings.address_rate)
        self._in_progress = RequestsInProgress()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await self._handle(_without_unread(scope), receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = monotonic()
        headers = Headers(scope=scope)
        request_id = headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        scope["state"] = {**scope.get("state", {}), "request_id": request_id, "client": "-"}
        status = 500
        extra_headers = {"X-Request-ID": request_id}

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(extra_headers)
            await send(message)

        self._metrics.inflight.inc()
        try:
            extra_headers |= self._admit(scope, headers)
            await self._in_its_place(scope, receive, send_on)
        except asyncio.CancelledError:  # uvicorn has drained long enough, and ends
            if status == 500:  # noqa: PLR2004  # nothing was sent yet
                ending = APIError(
                    503, "shutting_down", "the server is ending", retry_after=1, close=True
                )
                await error_response(ending, request_id)(scope, receive, send_on)
            raise
        except APIError as error:  # of `_admit()`
            await error_response(error, request_id)(scope, receive, send_on)
        except Exception as error:  # noqa: BLE001  # a bug of ours; the client needs a response
            _log.error("request %s failed:\n%s", request_id, _frames(error))
            bug = APIError(500, "internal_error", "the server failed; its log has the traceback")
            if status == 500:  # noqa: PLR2004  # nothing was sent yet
                await error_response(bug, request_id)(scope, receive, send_on)
        finally:
            self._metrics.inflight.dec()
            self._record(scope, status, monotonic() - started)

    def _admit(self, scope: Scope, headers: Headers) -> dict[str, str]:
        """Return the headers that show the client its rates.

        Raises:
            APIError: a wrong host, too many connections or requests, or no valid key.
        """
        self._check_host(scope, headers)
        path = route_path(scope)
        places: Places | None = None
        if path not in PROBE_PATHS:
            places = scope["state"].get(PLACES)
        if places is not None and not places.free:
            self._metrics.rejected.labels(_NO_PLACE).inc()
            raise _no_place("too many requests are in progress; try again later")
        address = client_address(scope, self._trusted)
        self._undeclared_proxies.notice(address, headers)
        rate_headers: dict[str, str] = {}
        if self._by_address is not None and path not in HEALTH_PATHS:
            rate_headers |= self._check_rate(self._by_address.hit(rate_key(address)), "address")
        client = f"address:{rate_key(address)}"
        if not self._auth.is_open and path not in PUBLIC_PATHS:
            client = self._authenticate(headers, scope["state"]["request_id"])
        scope["state"]["client"] = client
        if self._by_client is not None and path not in PROBE_PATHS:
            rate_headers |= self._check_rate(self._by_client.hit(client), "client")
        return rate_headers

    async def _in_its_place(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application; the request takes a place once its body is there."""
        client = scope["state"]["client"]
        places: Places | None = scope["state"].get(PLACES)
        is_whole = has_place = False

        async def receive_on() -> Message:
            nonlocal is_whole, has_place
            message = await receive()
            is_last = message["type"] == "http.request" and not message.get("more_body", False)
            if is_last and not is_whole:
                is_whole = True
                if places is not None and not self._in_progress.may_add(client, places.most):
                    raise _no_place("too many requests of this client are in progress")
                self._in_progress.add(client)
                has_place = True
            return message

        try:
            await self._app(scope, receive_on, send)
        finally:
            if has_place:
                self._in_progress.remove(client)

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        is_exposed = self._auth.is_open and listens_on_loopback(scope)
        if not (self._allowed_hosts or is_exposed):
            return
        if not is_allowed_host(headers.get("host", ""), self._allowed_hosts):
            self._metrics.rejected.labels("wrong_host").inc()
            raise APIError(
                421,
                "wrong_host",
                "the server does not answer to the name in `Host`; list it in `allowed_hosts`",
            )

    def _authenticate(self, headers: Headers, request_id: str) -> str:
        try:
            keys = [value for name in KEY_HEADERS for value in headers.getlist(name)]
            return self._auth.authenticate(headers.getlist("authorization"), keys)
        except AuthenticationFailed as exc:
            self._metrics.auth_failures.labels(exc.reason).inc()
            _log.info("key refused: %s, %s", exc.reason, request_id)
            raise APIError(
                401,
                "unauthorized",
                "send a valid key, as in: Authorization: Bearer KEY; or: api-key: KEY",
                headers={"WWW-Authenticate": 'Bearer realm="rerank"'},
            ) from None

    def _check_rate(self, result: RateLimitResult, name: str) -> dict[str, str]:
        if result.allowed:
            return result.headers(name)
        self._metrics.rejected.labels(f"{name}_rate").inc()
        raise APIError(
            429,
            "rate_limited",
            f"the limit is {result.rate.requests} requests in {result.rate.seconds} seconds",
            retry_after=result.reset,
            headers=result.headers(name),
        )

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")
        path = getattr(route, "path", "other")
        self._metrics.requests.labels(path, _outcome(status)).inc()
        if isinstance(route, RerankRoute):  # each path takes as many series as a histogram has
            self._metrics.duration.labels(path).observe(seconds)
        state = scope["state"]
        _log.info(
            "%s %s %d %.1f ms, %s, %s",
            scope["method"] if scope["method"].isalpha() else "?",
            path,
            status,
            seconds * 1000,
            state["client"],
            state["request_id"],
        )


def _without_unread(scope: Scope) -> Scope:
    """Return a scope without cookies and query, which nothing here reads.

    FastAPI parses both for every route, cookies in quadratic time before Python 3.11.10 and 3.12.6.
    """
    headers = [(name, value) for name, value in scope["headers"] if name != b"cookie"]
    return {**scope, "headers": headers, "query_string": b""}


def _no_place(message: str) -> APIError:
    return APIError(503, _NO_PLACE, message, retry_after=1, close=True)


def _limiter(option: str, rate: str | None) -> RateLimiter | None:
    return None if rate is None else RateLimiter(parse_rate(option, rate))


def _outcome(status: int) -> str:
    if status < 400:  # noqa: PLR2004  # of HTTP
        return "ok"
    outcomes = {
        408: "timeout",
        429: "rejected",
        499: "cancelled",
        503: "unavailable",
        504: "timeout",
    }
    return outcomes.get(status, "refused" if status < 500 else "failed")  # noqa: PLR2004  # of HTTP


def _frames(error: Exception) -> str:
    """Return where an error came from, without its message, which may hold a text."""
    return "".join([*traceback.format_tb(error.__traceback__), type(error).__name__])
