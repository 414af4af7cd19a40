"""What goes into a backend and what comes out of it, checked once."""

from __future__ import annotations

from rerank_plugins.backend import Backend, as_scores
from rerank_plugins.content import Query, Requests, check_request
from rerank_plugins.scores import Scores, check_results

__all__ = ["checked_requests", "score_with"]


def checked_requests(backend: Backend, requests: Requests) -> Requests:
    """Return requests that `backend` can score, checked once for it and all below it.

    Raises:
        UnsupportedInputError: it can't score one of them.
    """
    inputs, instructions = backend.inputs, backend.instructions
    return [
        check_request(
            query,
            documents,
            inputs=inputs,
            instructions=instructions,
            label=backend.label if isinstance(query, Query) else None,
        )
        for query, documents in requests
    ]


def score_with(backend: Backend, requests: Requests) -> list[Scores]:
    """Score requests with a backend, which may be one of the user's.

    Raises:
        InvalidResponse: it does not return one finite number for each document.
    """
    results = check_results(backend.score_many(requests), len(requests))
    return [
        as_scores(result, len(documents), backend)
        for (_, documents), result in zip(requests, results, strict=True)
    ]
