"""From a query and documents to probabilities: late interaction, calibration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rerank_plugins.backends.embedded.embedder import TokenEmbedder
from rerank_plugins.backends.late_interaction import TextVectors, max_sim
from rerank_plugins.backends.scale import sigmoid
from rerank_plugins.scores import Passage, Scores, Usage

__all__ = ["CHUNK", "LateInteractionScorer", "Match"]

CHUNK = 64
"""Documents embedded and compared at once: keeps memory flat over any number of them."""

# Log-odds of relevance: slope x match + offset. Fitted by `tests/benchmarks/calibration.py`.
_SLOPE, _OFFSET = 54.3, -47.8


@dataclass(frozen=True, slots=True)
class Match:
    """How well one document matches the query."""

    similarity: float
    """Mean best match of the query's words in the best window of the document, -1 to 1."""
    tokens: int
    """Tokens of the document that the model has read."""
    windows: int
    """In how many windows it has read them."""
    passage: Passage | None
    """The text of the best of these; None if there is one window."""
    highlight: Passage | None
    """The sentence of this one that matches best; None if there is one window."""
    read: float | None
    """The share of the document that was read, where it is less than all and known."""
    is_truncated: bool
    """Whether the model has read only a part of the document, or of the query."""

    @property
    def probability(self) -> float:
        """That the document is relevant, as calibrated on candidates of a first search."""
        return sigmoid(_SLOPE * self.similarity + _OFFSET)


class LateInteractionScorer:
    """Scores documents with the embedded model; safe to share between threads."""

    def __init__(self, embedder: TokenEmbedder, *, best_windows: int = 1) -> None:
        self._embedder = embedder
        self._best_windows = best_windows

    def score(self, query: str, documents: Sequence[str]) -> Scores:
        """Return the probabilities, with what is known of them, in the documents' order."""
        words = self._embedder.query(query)
        matches = list(self._matches(words, documents))
        return Scores(
            [match.probability for match in matches],
            scale="probability",
            truncated=[i for i, match in enumerate(matches) if match.is_truncated],
            read={i: match.read for i, match in enumerate(matches) if match.read is not None},
            windows={i: match.windows for i, match in enumerate(matches) if match.windows > 1},
            passages={
                i: match.passage for i, match in enumerate(matches) if match.passage is not None
            },
            highlights={
                i: match.highlight for i, match in enumerate(matches) if match.highlight is not None
            },
            usage=Usage(tokens=words.tokens + sum(match.tokens for match in matches)),
        )

    def matches(self, query: str, documents: Sequence[str]) -> Iterator[Match]:
        """Yield the match of each document, in input order; equal ones are embedded once."""
        return self._matches(self._embedder.query(query), documents)

    def _matches(self, query: TextVectors, documents: Sequence[str]) -> Iterator[Match]:
        for start in range(0, len(documents), CHUNK):
            texts = documents[start : start + CHUNK]
            vectors_of = self._embedder.passages(texts)
            vectors = [vectors_of[text] for text in texts]
            best = max_sim(query, vectors, best_windows=self._best_windows)
            for document, match in zip(vectors, best, strict=True):
                yield Match(
                    match.score,
                    document.tokens,
                    len(document.windows),
                    document.passages[match.window] if document.passages else None,
                    match.sentence,
                    document.read,
                    document.is_truncated or query.is_truncated,
                )
