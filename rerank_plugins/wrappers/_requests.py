"""What goes into a backend and what comes out of it, checked once."""

from __future__ import annotations

from collections.abc import Sequence

from rerank_plugins.backend import Backend, as_scores
from rerank_plugins.content import CheckedDocuments, Requests, check_request
from rerank_plugins.errors import InvalidResponse
from rerank_plugins.scores import Scores

__all__ = ["as_results", "checked_requests", "score_with"]


def checked_requests(backend: Backend, requests: Requests) -> Requests:
    """Return requests that `backend` can score, checked once for it and all below it.

    Raises:
        UnsupportedInputError: it can't score one of them.
    """
    if {type(documents) for _, documents in requests} <= {CheckedDocuments}:
        return requests
    inputs, instructions = backend.inputs, backend.instructions
    return [
        check_request(query, documents, inputs=inputs, instructions=instructions)
        for query, documents in requests
    ]


def score_with(backend: Backend, requests: Requests) -> list[Scores]:
    """Score requests with a backend, which may be one of the user's.

    Raises:
        InvalidResponse: it does not return one finite number for each document.
    """
    return as_results(backend, requests, backend.score_many(requests))


def as_results(
    backend: Backend, requests: Requests, results: Sequence[Sequence[object]]
) -> list[Scores]:
    """Return what a backend returned for requests as `Scores`.

    Raises:
        InvalidResponse: it is not one finite number for each document.
    """
    if len(results) != len(requests):
        raise InvalidResponse(f"got {len(results)} lists of scores for {len(requests)} requests")
    return [
        as_scores(result, len(documents), backend)
        for (_, documents), result in zip(requests, results, strict=True)
    ]
