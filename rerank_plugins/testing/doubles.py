"""Backends that stand in for real ones: one scores by a function, one always fails."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rerank_plugins.backend import Backend
from rerank_plugins.content import Document, Query, check_texts
from rerank_plugins.scores import Scale, Scores

__all__ = ["FailingBackend", "FakeBackend", "word_overlap"]


def word_overlap(query: str, document: str) -> float:
    """Share of the query's words that stand in the document, from 0 to 1."""
    words = set(re.findall(r"\w+", query.lower()))
    matches = words & set(re.findall(r"\w+", document.lower()))
    return len(matches) / len(words) if words else 0.0


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

    @property
    def kind(self) -> str:
        return "fake"

    @property
    def label(self) -> str:
        return self._name

    def score(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        text, texts = check_texts(query, documents)
        if not texts:
            return Scores((), scale=self.scale)
        self.calls.append((text, texts))
        values = (float(self._function(text, document)) for document in texts)
        return Scores(values, backend=self._name, label=self.label, scale=self.scale)

    def close(self) -> None:
        self.closed += 1


class FailingBackend(Backend):
    """Raises the same error for every request."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    @property
    def name(self) -> str:
        return "failing"

    @property
    def kind(self) -> str:
        return "failing"

    def score(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        raise self._error
