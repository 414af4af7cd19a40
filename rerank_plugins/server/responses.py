"""The responses of the rerank protocols, from one ranking."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import NamedTuple

from starlette.responses import Response

from rerank_plugins.ranking import Ranked
from rerank_plugins.scores import Scores
from rerank_plugins.server.folders import without_folders

__all__ = [
    "TokenCount",
    "cohere_response",
    "json_response",
    "plain_response",
    "tei_response",
]


_UNIT = 100
"""The documents of one of Cohere's search units."""


class TokenCount(NamedTuple):
    """The tokens of a request."""

    tokens: int
    estimated: bool
    """Whether the backend did not count them."""


def json_response(data: object) -> Response:
    """Return data as a response.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text, media_type="application/json")


def cohere_response(
    ranked: Sequence[Ranked],
    texts: Sequence[str],
    scores: Scores,
    count: TokenCount,
    *,
    model: str,
    version: str,
    return_documents: bool,
) -> Response:
    """Return what Cohere, Jina, Xinference, Infinity and vLLM send."""
    results = [
        {"index": item.index, "relevance_score": item.score}
        | ({"document": {"text": texts[item.index]}} if return_documents else {})
        for item in ranked
    ]
    meta = {"api_version": {"version": version}, **_meta(scores, count)}
    return json_response(
        {"id": uuid.uuid4().hex, "model": model, "results": results, "meta": meta} | _usage(count)
    )


def tei_response(
    ranked: Sequence[Ranked], texts: Sequence[str], scores: Scores, *, return_text: bool
) -> Response:
    """Return what Text Embeddings Inference sends."""
    response = json_response(
        [
            {"index": item.index, "score": item.score}
            | ({"text": texts[item.index]} if return_text else {})
            for item in ranked
        ]
    )
    if scores.usage is not None and scores.usage.tokens is not None:
        response.headers["X-Compute-Tokens"] = str(scores.usage.tokens)
    return response


def plain_response(
    ranked: Sequence[Ranked], texts: Sequence[str], count: TokenCount, *, model: str
) -> Response:
    """Return the plain shape."""
    results = [
        {"index": item.index, "score": item.score, "document": texts[item.index]} for item in ranked
    ]
    return json_response({"model": model, "results": results} | _usage(count))


def _usage(count: TokenCount) -> dict[str, object]:
    """Return the tokens where the clients of Jina, Infinity and vLLM look for them."""
    return {"usage": {"prompt_tokens": count.tokens, "total_tokens": count.tokens}}


def _meta(scores: Scores, count: TokenCount) -> dict[str, object]:
    """Return what the clients of Cohere and Xinference need, and what else is known."""
    units = None if scores.usage is None else scores.usage.search_units
    meta: dict[str, object] = {
        "billed_units": {"search_units": -(-len(scores) // _UNIT) if units is None else units},
        "tokens": {"input_tokens": count.tokens, "output_tokens": 0},
    }
    estimated = (("billed_units", units is None), ("tokens", count.estimated))
    if names := [name for name, is_estimated in estimated if is_estimated]:
        meta["estimated"] = names
    if scored_by := scores.model or scores.label:
        meta["scored_by"] = without_folders(scored_by)
    if scores.truncated:
        meta["truncated"] = sorted(scores.truncated)
    if scores.windows:
        meta["windows"] = {str(at): number for at, number in sorted(scores.windows.items())}
    if scores.passages:
        meta["passages"] = {str(at): list(span) for at, span in sorted(scores.passages.items())}
    if scores.highlights:
        meta["highlights"] = {str(at): list(span) for at, span in sorted(scores.highlights.items())}
    return meta
