"""From a query and documents to probabilities: late interaction, foreign letters, calibration."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rerank_plugins.backends.embedded import char_ngrams as foreign
from rerank_plugins.backends.embedded.embedder import TokenEmbedder
from rerank_plugins.backends.embedded.late_interaction import max_sim
from rerank_plugins.backends.scale import sigmoid

__all__ = ["CHUNK", "LateInteractionScorer", "Matches"]

_log = logging.getLogger(__name__)

CHUNK = 64
"""Documents encoded and compared at once: keeps memory flat over any number of them."""

# Log-odds of relevance: slope x match + offset. Fitted by `recipe.py`.
_WORDS = (7.80, -5.82)
_LETTERS = (17.71, -8.70)

_MOSTLY = 0.5


@dataclass(frozen=True, slots=True)
class Matches:
    """How well one document matches the query."""

    words: float
    """Mean best match of the words that the model reads, -1 to 1.05."""
    letters: float
    """Share of the foreign n-grams that the document holds, 0 to 1."""
    foreign: float
    """Share of the query that is foreign letters, 0 to 1; the weight of `letters`."""

    @property
    def probability(self) -> float:
        """That the document is relevant, as calibrated on candidates of a first search."""
        log_odds = (1.0 - self.foreign) * (_WORDS[0] * self.words + _WORDS[1])
        log_odds += self.foreign * (_LETTERS[0] * self.letters + _LETTERS[1])
        return sigmoid(log_odds)


class LateInteractionScorer:
    """Scores documents with the embedded model; safe to share between threads."""

    def __init__(self, embedder: TokenEmbedder) -> None:
        self._embedder = embedder

    def matches(self, query: str, documents: Sequence[str]) -> Iterator[Matches]:
        """Yield the matches of each document, in input order; equal ones are encoded once."""
        latin, runs = foreign.split(query)
        words = self._embedder.words(self._embedder.embed([latin])[latin])
        letters = sum(map(len, runs))
        share = letters / (letters + len(words.ids)) if letters else 0.0
        if share > _MOSTLY:
            _advise()
        for start in range(0, len(documents), CHUNK):
            parts = [foreign.split(text) for text in documents[start : start + CHUNK]]
            vectors = self._embedder.embed([latin for latin, _ in parts])
            similarities = max_sim(words, [vectors[latin] for latin, _ in parts])
            for (_, held), similarity in zip(parts, similarities, strict=True):
                yield Matches(float(similarity), foreign.overlap(runs, held), share)


@functools.cache
def _advise() -> None:
    """Say once per process that the model can't read the query."""
    _log.warning(
        "the embedded model reads English; most of this query is in another script, where it only "
        "counts shared letters. For a model that reads it, install rerank-plugins[local] and use "
        'the backend "local:BAAI/bge-reranker-v2-m3"'
    )
