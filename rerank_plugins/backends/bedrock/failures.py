"""From an error of boto3 to ours; what is raised holds neither the request nor a secret."""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from rerank_plugins.backends.http.credentials import Key
from rerank_plugins.backends.http.errors import quote
from rerank_plugins.errors import (
    AuthenticationError,
    BackendError,
    BackendOverloaded,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    InvalidResponse,
    RerankError,
)

__all__ = ["CREDENTIALS_HINT", "is_foreign", "translated"]

CREDENTIALS_HINT = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a `profile`, or give the machine a "
    "role; it must be allowed bedrock:Rerank and bedrock:InvokeModel"
)
_SETTINGS = frozenset(
    {
        "ConfigNotFound",
        "ConfigParseError",
        "InvalidConfigError",
        "InvalidEndpointConfigurationError",
    }
    | {"InvalidRegionError", "NoRegionError", "ProfileNotFound", "UnknownEndpointError"}
    | {"UnknownRegionError", "UnknownServiceError"}
)
_CREDENTIALS = frozenset(
    {"CredentialRetrievalError", "LoginError", "LoginTokenLoadError"}
    | {"NoAuthTokenError", "NoCredentialsError", "PartialCredentialsError", "SSOError"}
    | {"SSOTokenLoadError", "TokenRetrievalError", "UnauthorizedSSOTokenError"}
)
_TIMEOUTS = frozenset({"ConnectTimeoutError", "ReadTimeoutError"})
_CONNECTIONS = frozenset(
    {"ConnectionClosedError", "ConnectionError", "EndpointConnectionError", "HTTPClientError"}
    | {"IncompleteReadError", "ProxyConnectionError", "ResponseStreamingError"}
)
_OVERLOADED_CODES = frozenset(
    {"ModelNotReadyException", "ServiceQuotaExceededException", "ServiceUnavailableException"}
    | {"Throttling", "ThrottlingException", "TooManyRequestsException"}
)
_KEY_CODES = frozenset(
    {"AccessDenied", "AccessDeniedException", "ExpiredToken", "ExpiredTokenException"}
    | {"IncompleteSignature", "InvalidClientTokenId", "InvalidSignatureException"}
    | {"MissingAuthenticationToken", "MissingAuthenticationTokenException", "NotAuthorized"}
    | {"OptInRequired", "SignatureDoesNotMatch", "UnrecognizedClientException"}
)
_UNAVAILABLE_CODES = frozenset({"DependencyFailedException"})
_OVERLOADED_STATUSES = frozenset({429, 503})
_KEY_STATUSES = frozenset({401, 403})
_TIMEOUT_STATUSES = frozenset({408, 504})
_SERVER_ERRORS = 500
_LONGEST_CODE = 60
_LIBRARIES = ("boto", "urllib3")


def is_foreign(error: Exception) -> bool:
    """Whether an error is one of boto3's, or of what it is made of, or was raised in there."""
    if isinstance(error, MemoryError):
        return False
    return _is_of_library(error) or any(
        str(frame.f_globals.get("__name__")).startswith(_LIBRARIES)
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )


def _is_of_library(error: Exception) -> bool:
    return any(cls.__module__.startswith(_LIBRARIES) for cls in type(error).__mro__)


def translated(
    error: Exception, *, where: str, key: Key, texts: Sequence[str], seconds: float
) -> RerankError:
    """Return our error for one of boto3's.

    Args:
        error: what boto3 raised.
        where: which service; the message starts with it.
        key: the secrets that were sent; the message masks them.
        texts: the query and the documents; a message that repeats any of them is dropped.
        seconds: the time there was.
    """
    response = getattr(error, "response", None)
    if isinstance(response, Mapping) and "Error" in response:
        return _refusal(response, where=where, key=key, texts=texts)
    if not _is_of_library(error):  # such as an AttributeError of boto3's parsers
        return InvalidResponse(f"{where}: the response can't be read ({type(error).__name__})")
    names = {cls.__name__ for cls in type(error).__mro__}
    what = f"{where}: {quote(str(error), key=key, texts=texts) or type(error).__name__}"
    if names & _CREDENTIALS:
        return AuthenticationError(f"{what}; {CREDENTIALS_HINT}")
    if names & _SETTINGS:
        return ConfigError(f"{what}; set `region`, or AWS_REGION, or check the profile")
    if names & _TIMEOUTS:
        stage = "connect" if "ConnectTimeoutError" in names else "read"
        return BackendTimeout(f"{where}: no response in {seconds:.3g} s (stage: {stage})")
    if "ResponseParserError" in names:
        return InvalidResponse(f"{where}: the response can't be read")
    if "SSLError" in names:
        return BackendError(f"{what}; there is no trusted encryption with this server")
    if names & _CONNECTIONS:
        return BackendUnavailable(what)
    return BackendError(what)


def _refusal(
    response: Mapping[str, Any], *, where: str, key: Key, texts: Sequence[str]
) -> BackendError:
    """Return the error for a response without success, by its code and its status."""
    told, metadata = response["Error"], response.get("ResponseMetadata") or {}
    code, status = str(told.get("Code", "")), metadata.get("HTTPStatusCode") or 0
    quoted = quote(str(told.get("Message", "")), key=key, texts=texts)
    named = quote(code, key=key, texts=texts)[: _LONGEST_CODE + 1].strip("'")
    what = f"{where} answered {status} {named}" + (f": {quoted}" if quoted else "")
    retry_after = _retry_after(metadata.get("HTTPHeaders") or {})
    if code in _KEY_CODES or status in _KEY_STATUSES:
        return AuthenticationError(f"{what}; {CREDENTIALS_HINT}", status_code=status)
    if code in _OVERLOADED_CODES or status in _OVERLOADED_STATUSES:
        return BackendOverloaded(what, retry_after=retry_after)
    if status in _TIMEOUT_STATUSES:
        return BackendTimeout(what, retry_after=retry_after)
    if code in _UNAVAILABLE_CODES or status >= _SERVER_ERRORS:
        return BackendUnavailable(what, retry_after=retry_after)
    return BackendRejected(f"{what}; check `model` and `region`", status_code=status)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
