"""The protocols that rerank servers serve_dialect, as an `FakeServer` answers in them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

from rerank_plugins.testing.doubles import word_overlap
from rerank_plugins.testing.fake_server import Behaviour, FakeResponse, Received

__all__ = ["serve_dialect"]

_Score: TypeAlias = Callable[[str, str], float]
_Speaker: TypeAlias = Callable[[Any, _Score], FakeResponse]


def serve_dialect(dialect: str, *, score: _Score = word_overlap) -> Behaviour:
    """Return a server of this dialect, as strict as the strictest of its kind.

    It refuses other methods than POST, unknown fields, null, empty texts and too many documents,
    and gives scores on the scale of the dialect, best first.

    Args:
        dialect: the kind of a remote backend, such as `"tei"`.
        score: `(query, document) -> probability`; by default the share of the query's words
            that the document contains.

    Raises:
        ValueError: there is no such dialect.
    """
    if dialect not in _SPEAKERS:
        raise ValueError(f"no dialect {dialect!r}; valid: {', '.join(_SPEAKERS)}")

    def behave(received: Received) -> FakeResponse:
        if received.method != "POST":
            return FakeResponse(
                {"error": f"{received.method} is not allowed"}, 405, {"Allow": "POST"}
            )
        return _SPEAKERS[dialect](received.body, score)

    return behave


def _speaker(
    *,
    documents: str = "documents",
    results: str | None = "results",
    number: str = "relevance_score",
    limit: int | None = None,
    fields: frozenset[str] = frozenset({"model", "query", "documents"}),
    logits: bool = False,
) -> _Speaker:
    def answer(body: Any, score: _Score) -> FakeResponse:
        if body.keys() - fields or None in body.values():
            return FakeResponse(
                {"detail": f"unexpected fields: {sorted(body.keys() - fields)}"}, 400
            )
        texts = [text["text"] if isinstance(text, dict) else text for text in body[documents]]
        query = body["query"]["text"] if isinstance(body["query"], dict) else body["query"]
        if not texts or not all(texts) or (limit is not None and len(texts) > limit):
            return FakeResponse(
                {"error": f"batch size {len(texts)}", "error_type": "Validation"}, 422
            )
        raw = logits or body.get("raw_scores") or body.get("use_activation") is False
        items = [
            {"index": index, number: _logit(score(query, text)) if raw else score(query, text)}
            for index, text in enumerate(texts)
        ]
        items.sort(key=lambda item: item[number], reverse=True)
        return FakeResponse(items if results is None else {results: items})

    return answer


def _logit(probability: float) -> float:
    certain = min(max(probability, 1e-9), 1 - 1e-9)
    return math.log(certain / (1 - certain))


def _dashscope(body: Any, score: _Score) -> FakeResponse:
    if body.keys() - {"model", "input", "parameters"}:
        return FakeResponse({"code": "InvalidParameter", "message": "unexpected fields"}, 400)
    inner = _speaker(limit=500)({"model": body["model"], **body["input"]}, score)
    return FakeResponse({"output": inner.body, "request_id": "1"}, inner.status)


_COHERE = frozenset({"model", "query", "documents"})
_SPEAKERS: dict[str, _Speaker] = {
    "cohere": _speaker(limit=1000),
    "dashscope": _dashscope,
    "infinity": _speaker(limit=2048, fields=_COHERE | {"raw_scores"}),
    "jina": _speaker(),
    "llamacpp": _speaker(logits=True),
    "nim": _speaker(
        documents="passages",
        results="rankings",
        number="logit",
        limit=512,
        fields=frozenset({"model", "query", "passages", "truncate"}),
        logits=True,
    ),
    "siliconflow": _speaker(fields=_COHERE | {"instruction"}),
    "tei": _speaker(
        documents="texts",
        results=None,
        number="score",
        limit=32,
        fields=frozenset({"query", "texts", "truncate", "raw_scores"}),
    ),
    "vllm": _speaker(fields=_COHERE | {"truncate_prompt_tokens", "instruction", "use_activation"}),
    "voyage": _speaker(results="data", limit=1000, fields=_COHERE | {"truncation"}),
    "xinference": _speaker(fields=_COHERE | {"kwargs"}),
}
