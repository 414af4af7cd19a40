"""From a query and documents to probabilities: late interaction, n-grams, calibration."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rerank_plugins.backends.embedded import char_ngrams
from rerank_plugins.backends.embedded.embedder import TokenEmbedder
from rerank_plugins.backends.embedded.late_interaction import TokenVectors, max_sim
from rerank_plugins.backends.scale import sigmoid
from rerank_plugins.scores import Scores, Usage

__all__ = ["CHUNK", "LateInteractionScorer", "Match"]

_log = logging.getLogger(__name__)

CHUNK = 64
"""Documents embedded and compared at once: keeps memory flat over any number of them."""

# Log-odds of relevance: slope x match + offset. Fitted by `recipe.py`.
_WORDS = (7.80, -5.82)
_NGRAMS = (17.71, -8.70)

_MOSTLY = 0.5


@dataclass(frozen=True, slots=True)
class Match:
    """How well one document matches the query."""

    words: float
    """Mean best match of the words that the model reads, -1 to 1.05."""
    ngrams: float
    """Share of the query's n-grams in other scripts that occur in the document, 0 to 1."""
    ngram_weight: float
    """Share of the query in other scripts, 0 to 1; the weight of `ngrams`."""
    tokens: int
    """Tokens of the document that the model has read."""
    is_truncated: bool
    """Whether the model has read only the start of the document, or of the query."""

    @property
    def probability(self) -> float:
        """That the document is relevant, as calibrated on candidates of a first search."""
        log_odds = (1.0 - self.ngram_weight) * (_WORDS[0] * self.words + _WORDS[1])
        log_odds += self.ngram_weight * (_NGRAMS[0] * self.ngrams + _NGRAMS[1])
        return sigmoid(log_odds)


@dataclass(frozen=True, slots=True)
class _PreparedQuery:
    vectors: TokenVectors
    """Of its words alone."""
    tokens: int
    ngrams: frozenset[str]
    """Of its letters in other scripts."""
    ngram_weight: float


class LateInteractionScorer:
    """Scores documents with the embedded model; safe to share between threads."""

    def __init__(self, embedder: TokenEmbedder) -> None:
        self._embedder = embedder

    def score(self, query: str, documents: Sequence[str]) -> Scores:
        """Return the probabilities, with `truncated` and `usage`, in the documents' order."""
        parsed = self._query(query)
        matches = list(self._matches(parsed, documents))
        return Scores(
            [match.probability for match in matches],
            scale="probability",
            truncated=[i for i, match in enumerate(matches) if match.is_truncated],
            usage=Usage(tokens=parsed.tokens + sum(match.tokens for match in matches)),
        )

    def matches(self, query: str, documents: Sequence[str]) -> Iterator[Match]:
        """Yield the match of each document, in input order; equal ones are embedded once."""
        return self._matches(self._query(query), documents)

    def _query(self, query: str) -> _PreparedQuery:
        latin, runs = char_ngrams.split_unreadable(query)
        vectors = self._embedder.embed([latin])[latin]
        words = self._embedder.words(vectors)
        letters = sum(map(len, runs))
        weight = letters / (letters + len(words.ids)) if letters else 0.0
        if weight > _MOSTLY:
            _advise()
        return _PreparedQuery(words, len(vectors.ids), char_ngrams.ngrams(runs), weight)

    def _matches(self, query: _PreparedQuery, documents: Sequence[str]) -> Iterator[Match]:
        for start in range(0, len(documents), CHUNK):
            parts = [
                char_ngrams.split_unreadable(text) for text in documents[start : start + CHUNK]
            ]
            vectors_of = self._embedder.embed([latin for latin, _ in parts])
            vectors = [vectors_of[latin] for latin, _ in parts]
            similarities = max_sim(query.vectors, vectors)
            for (_, runs), document, similarity in zip(parts, vectors, similarities, strict=True):
                yield Match(
                    float(similarity),
                    char_ngrams.overlap(query.ngrams, runs),
                    query.ngram_weight,
                    len(document.ids),
                    document.is_truncated or query.vectors.is_truncated,
                )


@functools.cache
def _advise() -> None:
    """Log once per process that the model can't read the query."""
    _log.warning(
        "the embedded model reads English; most of this query is in another script, where it only "
        "counts shared letters. For a model that reads it, install rerank-plugins[local] and use "
        'the backend "local:BAAI/bge-reranker-v2-m3"'
    )
