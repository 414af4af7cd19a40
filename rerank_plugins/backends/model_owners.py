"""Who publishes well-known rerankers on the Hugging Face hub; for messages only."""

from __future__ import annotations

__all__ = ["with_owner"]

_OWNERS = {
    "bce-reranker": "maidalun1020",
    "bge-reranker": "BAAI",
    "gte-multilingual-reranker": "Alibaba-NLP",
    "gte-reranker": "Alibaba-NLP",
    "jina-reranker": "jinaai",
    "ms-marco-": "cross-encoder",
    "mxbai-rerank": "mixedbread-ai",
    "qwen3-reranker": "Qwen",
}
"""The beginnings of names, in small letters → the owner."""


def with_owner(name: str) -> str | None:
    """Return `OWNER/NAME` for the bare name of a well-known model; else None."""
    for beginning, owner in _OWNERS.items():
        if name.lower().startswith(beginning):
            return f"{owner}/{name}"
    return None
