"""The replies of the protocols, from one ranking."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence

from starlette.responses import Response

from rerank_plugins.backend import Ranked

__all__ = ["as_cohere", "as_json", "as_plain", "as_tei"]


def as_json(data: object, status: int = 200) -> Response:
    """Return data as a response; numbers that are not finite are bugs."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text, status, media_type="application/json")


def as_cohere(
    ranked: Sequence[Ranked], texts: Sequence[str], *, model: str, version: str, repeat: bool
) -> Response:
    """Return what Cohere, Jina, Xinference, Infinity and vLLM send."""
    results = [
        {"index": item.index, "relevance_score": item.score}
        | ({"document": {"text": texts[item.index]}} if repeat else {})
        for item in ranked
    ]
    meta = {"api_version": {"version": version}}
    return as_json({"id": uuid.uuid4().hex, "model": model, "results": results, "meta": meta})


def as_tei(ranked: Sequence[Ranked], texts: Sequence[str], *, repeat: bool) -> Response:
    """Return what Text Embeddings Inference sends."""
    return as_json(
        [
            {"index": item.index, "score": item.score}
            | ({"text": texts[item.index]} if repeat else {})
            for item in ranked
        ]
    )


def as_plain(ranked: Sequence[Ranked], texts: Sequence[str], *, model: str) -> Response:
    """Return the plain shape."""
    results = [
        {"index": item.index, "score": item.score, "document": texts[item.index]} for item in ranked
    ]
    return as_json({"model": model, "results": results})
