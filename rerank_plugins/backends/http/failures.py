"""From an error of the client library to ours; neither it nor its causes hold the request."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from typing import Protocol

from rerank_plugins.backends.http.client import httpx
from rerank_plugins.backends.http.proxies import GO_AROUND, EnvironmentProxy
from rerank_plugins.errors import (
    BackendError,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    InvalidResponse,
)

__all__ = ["FOREIGN", "TRY_DOCTOR", "are_headers_too_long", "strip", "translated"]

FOREIGN = (httpx.TransportError, httpx.InvalidURL, TimeoutError)
"""What the client library raises, and the limits of time around it."""

# Messages of the client library by how they start: further on they may quote what came.
_CLOSED = re.compile("peer closed|peer unexpectedly closed|Server disconnected|the response came")
_HEADERS_TOO_LONG = re.compile("Receive buffer too long")
TRY_DOCTOR = " Try: rerank-plugins doctor"
"""The advice after a failed connection; the doctor itself leaves it out."""
_STATUS = re.compile(r"\d{3}\b")
_CERTIFICATE = "; if you trust it, set `verify` to the file of its CA, as in verify=ca.pem"
_TLS_PROXY = "; most proxies want http:// in that variable, also for servers with https"
_WRONG_PROXY_USER = 407
_REFUSALS = frozenset(range(400, 500)) - {408, 429}
"""What a proxy will answer again."""
_BROKEN_TLS = (
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
    ssl.SSLSyscallError,
    ssl.SSLWantReadError,  # libraries wait for bytes while they handle it, and then it is a context
    ssl.SSLWantWriteError,
)
"""What a connection that breaks makes of TLS; all else is a peer not to be trusted."""


class FailedCall(Protocol):
    """What messages say of the call that failed."""

    where: str
    """What they call the server."""
    origin: str
    """Its URL without the path."""
    seconds: float
    """The time there was."""
    connect_timeout: float
    """The time there was for a connection."""
    stage: str
    """What was under way."""
    proxy: EnvironmentProxy | None
    """What it went through."""


def translated(exc: Exception, call: FailedCall) -> BackendError | ConfigError:
    """Return our error for one of the `FOREIGN` ones, which is its cause.

    The cause loses its frames and its request: both hold the key, and crash reporters print them.
    """
    strip(exc)
    if isinstance(exc, httpx.TransportError) and _is_not_http(exc):
        # Without its cause, which quotes what came: that may hold one of our texts.
        if call.proxy is not None:
            return InvalidResponse(
                f"{call.where}: what came through {call.proxy.words} is not HTTP; check that "
                f"variable; {GO_AROUND}"
            )
        return InvalidResponse(f"{call.where}: the response is not HTTP; check `base_url`")
    if isinstance(exc, httpx.ProxyError) and (status := _STATUS.match(str(exc))):
        # Without its cause, which quotes the proxy: that may repeat its password.
        return _refused_by_proxy(int(status[0]), call)
    error = _error(exc, call)
    error.__cause__ = exc
    return error


def _refused_by_proxy(status: int, call: FailedCall) -> BackendError:
    proxy = call.proxy
    if proxy is None:
        return BackendUnavailable(f"{call.where}: no connection: the proxy answered {status}")
    advice = proxy.wrong_user if status == _WRONG_PROXY_USER else GO_AROUND
    kind = BackendError if status in _REFUSALS else BackendUnavailable
    return kind(f"{call.where}: no connection: {proxy.words} answered {status}; {advice}")


def _error(exc: Exception, call: FailedCall) -> BackendError | ConfigError:
    if isinstance(exc, httpx.ConnectTimeout):
        reason = f": {exc}" if "look-up" in str(exc) else ""
        return BackendTimeout(
            f"{call.where}: no connection{_to_proxy(call)} in {call.connect_timeout:.3g} s{reason} "
            f"(stage: connect); {_limiting_option(call, connecting=True)}"
        )
    if isinstance(exc, httpx.TimeoutException | TimeoutError):
        return BackendTimeout(
            f"{call.where}: no complete response{_through_proxy(call)} in {call.seconds:.3g} s "
            f"(stage: {call.stage}); {_limiting_option(call)}"
        )
    if isinstance(exc, httpx.InvalidURL):
        return ConfigError(f"`base_url` can't be used: {exc}")
    return _connection_error(exc, call)


def _to_proxy(call: FailedCall) -> str:
    return "" if call.proxy is None else f" to {call.proxy.words}"


def _through_proxy(call: FailedCall) -> str:
    return "" if call.proxy is None else f" through {call.proxy.words}"


def _limiting_option(call: FailedCall, *, connecting: bool = False) -> str:
    """Name the option whose time was too short."""
    if connecting and call.connect_timeout < call.seconds:
        return "the limit is `connect_timeout`"
    return "the limit is `timeout`, or the `deadline` of a wrapper"


def _connection_error(exc: Exception, call: FailedCall) -> BackendError:
    causes = list(_causes(exc))
    for cause in causes:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, _BROKEN_TLS):
            hint = _CERTIFICATE if isinstance(cause, ssl.SSLCertVerificationError) else ""
            return BackendError(
                f"{call.where}: no trusted encryption{_through_proxy(call)}: "
                f"{cause.reason or cause}{_TLS_PROXY if _speaks_tls(call) else hint}"
            )
    if are_headers_too_long(exc):
        return BackendError(f"{call.where}: the headers of the response are too long")
    of_system = (str(cause) for cause in causes if isinstance(cause, OSError))
    reason = (str(exc) or next(of_system, "") or type(exc).__name__)[:200]
    hint = ""
    if isinstance(exc, httpx.ConnectError):
        hint = f"; is it running?{TRY_DOCTOR} {call.origin}"
    if call.proxy is not None:
        hint = f"; correct {call.proxy.variable}; {GO_AROUND}"
    return BackendUnavailable(f"{call.where}: no connection{_to_proxy(call)}: {reason}{hint}")


def _speaks_tls(call: FailedCall) -> bool:
    return call.proxy is not None and call.proxy.address.startswith("https:")


def are_headers_too_long(exc: Exception) -> bool:
    """Whether the client library gave a response up because of its headers."""
    return _HEADERS_TOO_LONG.match(str(exc)) is not None


def _is_not_http(exc: Exception) -> bool:
    return (
        isinstance(exc, httpx.RemoteProtocolError)
        and not _CLOSED.match(str(exc))
        and not are_headers_too_long(exc)
    )


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it holds on to."""
    waiting, seen = [exc], set[int]()
    while waiting:
        cause = waiting.pop()
        if id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            waiting += filter(None, (cause.__context__, cause.__cause__))


def strip(exc: BaseException) -> None:
    """Take the frames and the request off an error and all that it holds on to."""
    for cause in _causes(exc):
        cause.__traceback__ = None
        if isinstance(cause, httpx.RequestError):
            cause._request = None  # noqa: SLF001  # the public setter takes no None
