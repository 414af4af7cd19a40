"""Errors as HTTP responses: one JSON shape that never repeats what the client sent."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import Response

from rerank_plugins.errors import (
    BackendError,
    BackendOverloaded,
    BackendTimeout,
    BackendUnavailable,
    DocumentQuarantined,
    UnsupportedInputError,
)
from rerank_plugins.scheduler import ClientSuspended
from rerank_plugins.wrappers.process import ModelRestarting

__all__ = ["APIError", "api_error_of", "error_response"]

_MAX_RETRY_AFTER = 3600.0


class APIError(HTTPException):
    """An error that the client receives.

    Args:
        status: the HTTP status.
        type: a word for programs, in snake_case.
        message: a sentence for people, without anything from the request.
        retry_after: seconds after which the same request may succeed.
        close: whether the server closes the connection afterwards.
        headers: more headers of the response.
    """

    def __init__(
        self,
        status: int,
        type: str,  # noqa: A002  # the name of the field in the response
        message: str,
        *,
        retry_after: float | None = None,
        close: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        all_headers = dict(headers or {})
        if retry_after is not None:
            seconds = max(1, math.ceil(min(retry_after, _MAX_RETRY_AFTER)))
            all_headers["Retry-After"] = str(seconds)
        if close:
            all_headers["Connection"] = "close"
        super().__init__(status, message, all_headers)
        self.type = type


def api_error_of(error: Exception) -> APIError:
    """Return what a client learns of an error: whose fault it is, and whether to retry."""
    match error:
        case HTTPException():  # of the router
            return _routing_error(error)
        case MemoryError():
            return APIError(503, "out_of_memory", "the server ran out of memory", retry_after=5)
        case UnsupportedInputError():
            return APIError(422, "unsupported_input", str(error))
        case DocumentQuarantined():
            return APIError(422, "document_quarantined", str(error))
        case BackendTimeout():
            return APIError(504, "timeout", "the scores did not come in time", retry_after=1)
        case ClientSuspended():
            return APIError(
                503,
                "client_suspended",
                "documents of this client ended the model's process more than once; wait, and "
                "leave them out",
                retry_after=error.retry_after,
            )
        case BackendOverloaded():
            return APIError(
                503,
                "overloaded",
                "too many documents wait for their scores; try again later",
                retry_after=error.retry_after or 1,
            )
        case ModelRestarting():
            return APIError(
                503,
                "model_restarting",
                "the model is restarting",
                retry_after=error.retry_after or 1,
            )
        case BackendUnavailable():
            return APIError(
                503,
                "backend_unavailable",
                "the backend can't be reached; try again later",
                retry_after=error.retry_after or 1,
            )
        case BackendError():
            return APIError(502, "backend_failed", "the backend returned no valid scores")
        case _:
            return APIError(500, "internal_error", "the server can't score this request")


def _routing_error(error: HTTPException) -> APIError:
    type_, message = "refused", "the server refuses this request"
    if error.status_code == HTTPStatus.NOT_FOUND:
        type_, message = "not_found", "there is no such path; GET / lists the others"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "another method")
        body = ", with a body of JSON" if allowed == "POST" else ""
        type_, message = "wrong_method", f"this path takes {allowed}{body}"
    return APIError(error.status_code, type_, message, headers=error.headers)


def error_response(error: APIError, request_id: str) -> Response:
    """Return the response that carries an error."""
    body = {
        "error": {"type": error.type, "message": error.detail, "request_id": request_id},
        "detail": error.detail,  # where the clients of Xinference and FastAPI look
        "message": error.detail,  # where those of Cohere look
    }
    return Response(
        json.dumps(body), error.status_code, error.headers, media_type="application/json"
    )
