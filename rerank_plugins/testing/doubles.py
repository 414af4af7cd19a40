"""Backends that stand in for real ones: one scores by a function, one always fails."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rerank_plugins.backend import Backend, Document, Scale, check_texts

__all__ = ["FailingBackend", "FakeBackend", "word_overlap"]


def word_overlap(query: str, document: str) -> float:
    """Share of the query's words that stand in the document, from 0 to 1."""
    words = set(re.findall(r"\w+", query.lower()))
    found = words & set(re.findall(r"\w+", document.lower()))
    return len(found) / len(words) if words else 0.0


class FakeBackend(Backend):
    """Scores with a function: exact, instant, and it counts its work.

    Args:
        function: `(query, document) -> score`; by default the share of the query's words
            that the document contains.
        scale: the range that `function` keeps.
        name: the backend's name.
    """

    def __init__(
        self,
        function: Callable[[str, str], float] = word_overlap,
        *,
        scale: Scale = "probability",
        name: str = "fake",
    ) -> None:
        self._function = function
        self._name = name
        self.scale = scale
        self.calls: list[tuple[str, tuple[str, ...]]] = []
        """Every request that was scored, oldest first."""
        self.closed = 0
        """How often the backend was closed."""

    @property
    def name(self) -> str:
        return self._name

    def score(self, query: str, documents: Sequence[Document]) -> list[float]:
        texts = check_texts(query, documents)
        if not texts:
            return []
        self.calls.append((query, tuple(texts)))
        return [float(self._function(query, text)) for text in texts]

    def close(self) -> None:
        self.closed += 1


class FailingBackend(Backend):
    """Raises the same error for every request."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    @property
    def name(self) -> str:
        return "failing"

    def score(self, query: str, documents: Sequence[Document]) -> list[float]:
        raise self._error
