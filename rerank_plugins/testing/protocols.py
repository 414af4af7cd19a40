"""What each kind of rerank server answers, for a `FakeServer`.

Written from the servers' own documents, not from `backends/http/dialects.py`: a second opinion,
so that a mistake in a dialect fails a test instead of agreeing with itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

from rerank_plugins.testing.chat_protocol import serve_chat, serve_ollama
from rerank_plugins.testing.doubles import word_overlap
from rerank_plugins.testing.fake_server import FakeResponse, Received

__all__ = ["serve_dialect"]

_Score: TypeAlias = Callable[[str, str], float]
_Protocol: TypeAlias = Callable[[Any, _Score], FakeResponse]


def serve_dialect(
    dialect: str, *, score: _Score = word_overlap
) -> Callable[[Received], FakeResponse]:
    """Behave like a server of this dialect, as strict as the strictest of its kind.

    It refuses other methods than POST, unknown fields, null, empty texts and too many documents.
    It sends scores on the scale of the dialect, best first. `"openai"` and `"ollama"` are chat
    servers: they judge a document by a word, or put several in order.

    Args:
        dialect: the kind of a remote backend, such as `"tei"`.
        score: `(query, document) -> probability`; by default the share of the query's words
            that the document contains.

    Raises:
        ValueError: there is no such dialect.
    """
    if dialect not in _PROTOCOLS:
        raise ValueError(f"no dialect {dialect!r}; valid: {', '.join(_PROTOCOLS)}")

    def behave(received: Received) -> FakeResponse:
        if received.method != "POST":
            return FakeResponse(
                {"error": f"{received.method} is not allowed"}, 405, {"Allow": "POST"}
            )
        return _PROTOCOLS[dialect](received.body, score)

    return behave


def _protocol(
    *,
    documents: str = "documents",
    results: str | None = "results",
    number: str = "relevance_score",
    limit: int | None = None,
    fields: frozenset[str] = frozenset({"model", "query", "documents"}),
    logits: bool = False,
    blanks: bool = True,
) -> _Protocol:
    def respond(body: Any, score: _Score) -> FakeResponse:
        if body.keys() - fields or None in body.values():
            return FakeResponse(
                {"detail": f"unexpected fields: {sorted(body.keys() - fields)}"}, 400
            )
        texts = [text["text"] if isinstance(text, dict) else text for text in body[documents]]
        query = body["query"]["text"] if isinstance(body["query"], dict) else body["query"]
        if not blanks and not all(map(str.strip, texts)):
            return FakeResponse({"message": "Each document cannot be whitespace only"}, 400)
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

    return respond


def _logit(probability: float) -> float:
    certain = min(max(probability, 1e-9), 1 - 1e-9)
    return math.log(certain / (1 - certain))


def _dashscope(body: Any, score: _Score) -> FakeResponse:
    if body.keys() - {"model", "input", "parameters"}:
        return FakeResponse({"code": "InvalidParameter", "message": "unexpected fields"}, 400)
    response = _protocol(limit=500)({"model": body["model"], **body["input"]}, score)
    return FakeResponse({"output": response.body, "request_id": "1"}, response.status)


def _deepinfra(body: Any, score: _Score) -> FakeResponse:
    queries, documents = body.get("queries"), body.get("documents")
    if body.keys() - {"queries", "documents", "instruction"}:
        return FakeResponse({"detail": {"error": "unexpected fields"}}, 422)
    if not documents or len(queries) != len(documents) or not all(documents):
        return FakeResponse({"detail": {"error": "queries and documents must be pairs"}}, 422)
    pairs = zip(queries, documents, strict=True)
    return FakeResponse(
        {
            "scores": [score(query, document) for query, document in pairs],
            "input_tokens": 42,
            "request_id": None,
            "inference_status": {"status": "succeeded", "tokens_input": 42},
        }
    )


def _mixedbread(body: Any, score: _Score) -> FakeResponse:
    """Return the ten best results unless told otherwise."""
    fields = {name: value for name, value in body.items() if name != "top_k"}
    respond = _protocol(
        documents="input",
        results="data",
        number="score",
        fields=frozenset({"model", "query", "input"}),
    )
    response = respond(fields, score)
    if response.status == _OK:
        response.body["data"] = response.body["data"][: body.get("top_k", 10)]
        response.body["usage"] = {"prompt_tokens": 9, "total_tokens": 9}
    return response


def _pinecone(body: Any, score: _Score) -> FakeResponse:
    if not all(isinstance(document, dict) for document in body["documents"]):
        return FakeResponse({"error": {"code": "INVALID_ARGUMENT", "message": "no object"}}, 400)
    respond = _protocol(
        results="data",
        number="score",
        limit=100,
        fields=_COHERE | {"parameters", "return_documents"},
    )
    response = respond(body, score)
    if response.status == _OK and body.get("return_documents", True):
        for item in response.body["data"]:
            item["document"] = body["documents"][item["index"]]
    if response.status == _OK:
        response.body["usage"] = {"rerank_units": 1}
    return response


_OK = 200
_COHERE = frozenset({"model", "query", "documents"})
_PROTOCOLS: dict[str, _Protocol] = {
    "azure": _protocol(limit=1000),
    "cohere": _protocol(limit=1000),
    "contextual": _protocol(fields=_COHERE | {"instruction"}),
    "dashscope": _dashscope,
    "dashscope-compatible": _protocol(limit=500, fields=_COHERE | {"instruct"}),
    "deepinfra": _deepinfra,
    "infinity": _protocol(limit=2048, fields=_COHERE | {"raw_scores"}),
    "jina": _protocol(),
    "llamacpp": _protocol(logits=True),
    "mixedbread": _mixedbread,
    "nim": _protocol(
        documents="passages",
        results="rankings",
        number="logit",
        limit=512,
        fields=frozenset({"model", "query", "passages", "truncate"}),
        logits=True,
    ),
    "ollama": serve_ollama,
    "openai": serve_chat,
    "openvino": _protocol(),
    "pinecone": _pinecone,
    "qianfan": _protocol(limit=64),
    "rerank": _protocol(limit=1000, fields=_COHERE | {"instruction", "raw_scores"}),
    "siliconflow": _protocol(fields=_COHERE | {"instruction"}),
    "sglang": _protocol(results=None, number="score", fields=_COHERE | {"instruct"}, blanks=False),
    "tei": _protocol(
        documents="texts",
        results=None,
        number="score",
        limit=32,
        fields=frozenset({"query", "texts", "truncate", "raw_scores"}),
    ),
    "vllm": _protocol(
        fields=_COHERE | {"truncate_prompt_tokens", "instruction", "use_activation", "activation"}
    ),
    "voyage": _protocol(results="data", limit=1000, fields=_COHERE | {"truncation"}),
    "xinference": _protocol(fields=_COHERE | {"kwargs"}),
    "zeroentropy": _protocol(),
    "zhipu": _protocol(limit=128),
}
