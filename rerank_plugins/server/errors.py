"""What goes wrong, as HTTP: one JSON shape, which never repeats what was sent."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from starlette.responses import Response

from rerank_plugins.errors import (
    BackendError,
    BackendOverloaded,
    BackendTimeout,
    BackendUnavailable,
    UnsupportedInputError,
)
from rerank_plugins.wrappers.process import ModelRestarting

__all__ = ["Problem", "problem_of", "reply"]


class Problem(Exception):
    """A request that is not answered with scores.

    Args:
        status: of HTTP.
        type: a word for programs, in snake_case.
        message: a sentence for people; holds nothing of the request.
        retry_after: seconds after which the same request may succeed.
        close: whether the connection is of no more use.
    """

    def __init__(
        self,
        status: int,
        type: str,  # noqa: A002  # what the reply calls it
        message: str,
        *,
        retry_after: float | None = None,
        close: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.message = message
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(min(retry_after, 3600.0))))
        if close:
            self.headers["Connection"] = "close"


def problem_of(error: Exception) -> Problem:
    """Return what a backend's error is to the client: whose fault, and whether to try again."""
    match error:
        case MemoryError():
            return Problem(503, "out_of_memory", "memory ran out on the server", retry_after=5)
        case UnsupportedInputError():
            return Problem(422, "unsupported_input", str(error))
        case BackendTimeout():
            return Problem(504, "timeout", "the scores did not come in time", retry_after=1)
        case BackendOverloaded():
            return Problem(
                503,
                "overloaded",
                "too much is waiting to be scored; try again later",
                retry_after=error.retry_after or 1,
            )
        case ModelRestarting():
            return Problem(
                503,
                "model_restarting",
                "the model is being started again",
                retry_after=error.retry_after or 1,
            )
        case BackendUnavailable():
            return Problem(
                503,
                "backend_unavailable",
                "what scores can't be reached now; try again later",
                retry_after=error.retry_after or 1,
            )
        case BackendError():
            return Problem(502, "backend_failed", "what scores gave no valid scores")
        case _:
            return Problem(500, "internal_error", "this request could not be scored")


def reply(problem: Problem, request_id: str) -> Response:
    """Return the response that tells a client about a problem."""
    body = {
        "error": {"type": problem.type, "message": problem.message, "request_id": request_id},
        "detail": problem.message,  # where Xinference's and FastAPI's clients look
        "message": problem.message,  # where Cohere's look
    }
    return Response(
        json.dumps(body), problem.status, problem.headers, media_type="application/json"
    )
