"""The responses of the rerank protocols, from one ranking."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence

from starlette.responses import Response

from rerank_plugins.ranking import Ranked

__all__ = ["cohere_response", "json_response", "plain_response", "tei_response"]


def json_response(data: object) -> Response:
    """Return data as a response.

    `json` takes a tenth of what pydantic's models take for a thousand results; it raises
    `ValueError` for a number that is not finite.
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text, media_type="application/json")


def cohere_response(
    ranked: Sequence[Ranked],
    texts: Sequence[str],
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
    meta = {"api_version": {"version": version}}
    return json_response({"id": uuid.uuid4().hex, "model": model, "results": results, "meta": meta})


def tei_response(ranked: Sequence[Ranked], texts: Sequence[str], *, return_text: bool) -> Response:
    """Return what Text Embeddings Inference sends."""
    return json_response(
        [
            {"index": item.index, "score": item.score}
            | ({"text": texts[item.index]} if return_text else {})
            for item in ranked
        ]
    )


def plain_response(ranked: Sequence[Ranked], texts: Sequence[str], *, model: str) -> Response:
    """Return the plain shape."""
    results = [
        {"index": item.index, "score": item.score, "document": texts[item.index]} for item in ranked
    ]
    return json_response({"model": model, "results": results})
