"""How many tokens of a text the embedded model reads."""

from __future__ import annotations

from rerank_plugins._internal.long_documents import LongDocuments

__all__ = ["MAX_LENGTH", "WINDOW", "passage_tokens"]

WINDOW = 256
"""Tokens of a text that are read together."""
MAX_LENGTH = 1024
"""The most tokens of a query, and of a passage that is cut, by default."""


def passage_tokens(max_length: int | None, long_documents: LongDocuments) -> int:
    """Return the most tokens of a passage that are read, in all its windows."""
    most = long_documents.size(WINDOW) * long_documents.max_windows
    if max_length is not None or long_documents.long_documents != "best":
        most = min(most, max_length or MAX_LENGTH)
    return most
