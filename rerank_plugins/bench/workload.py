"""Texts to measure speed with: real words, realistic lengths, no repetition."""

from __future__ import annotations

import bisect
import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import accumulate
from typing import Literal, TypeAlias

from rerank_plugins.errors import ConfigError

__all__ = ["Mix", "Shape", "Workload"]

Mix: TypeAlias = Literal["natural", "skewed"]
"""`"natural"`: lengths of paragraphs. `"skewed"`: two of five are long, the others short."""

_WORD = re.compile(r"\b[a-z]{2,}\b")

_Points: TypeAlias = Sequence[tuple[float, int]]

# Quantiles of tokens (WordPiece) per text. Natural: paragraphs and questions of SQuAD 1.1 dev
# (Rajpurkar et al., 2016), as sampled in XQuAD. Skewed: invented, with about the same mean.
_DOCUMENTS: Mapping[Mix, _Points] = {
    "natural": ((0, 34), (0.06, 96), (0.25, 119), (0.5, 143), (0.75, 184), (0.9, 250), (1, 480)),
    "skewed": ((0, 20), (0.3, 30), (0.58, 52), (0.6, 304), (0.8, 372), (1, 480)),
}
_QUERIES: _Points = ((0, 6), (0.25, 10), (0.5, 11), (0.75, 15), (1, 23))


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a call: how many queries, and how many documents for each."""

    queries: int
    documents: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read `"1x20"`: one query, 20 documents.

        Raises:
            ConfigError: the text has another form, or a number is not positive.
        """
        queries, times, documents = text.lower().replace("×", "x").partition("x")
        if not (times and queries.isdecimal() and documents.isdecimal()):
            raise ConfigError(f"a shape is QUERIESxDOCUMENTS, as 1x20, not {text!r}")
        shape = cls(int(queries), int(documents))
        if not shape.pairs:
            raise ConfigError(f"a shape needs at least one pair, not {text!r}")
        return shape

    @property
    def pairs(self) -> int:
        """Query-document pairs per call."""
        return self.queries * self.documents

    def __str__(self) -> str:
        return f"{self.queries}x{self.documents}"


class Workload:
    """An endless supply of requests; equal seeds give equal texts.

    Args:
        mix: the lengths of the generated documents; unused if `texts` has any.
        texts: documents to draw from instead of generating them.
        query: the query of every request; generated if None.
        seed: the seed of the random choices.

    Raises:
        ConfigError: there is no such mix.
    """

    def __init__(
        self,
        mix: Mix = "natural",
        *,
        texts: Sequence[str] = (),
        query: str | None = None,
        seed: int = 0,
    ) -> None:
        if mix not in _DOCUMENTS:
            raise ConfigError(f"unknown mix {mix!r}; valid: {', '.join(_DOCUMENTS)}")
        self._random = random.Random(seed)  # noqa: S311  # not for secrets
        self._lengths = _DOCUMENTS[mix]
        self._texts = texts
        self._query = query

    def requests(self, shape: Shape) -> list[tuple[str, list[str]]]:
        """Return new `(query, documents)` requests; generated documents never repeat."""
        return [
            (self._next_query(), [self._next_document() for _ in range(shape.documents)])
            for _ in range(shape.queries)
        ]

    def _next_query(self) -> str:
        return self._query or self._generate(_QUERIES)

    def _next_document(self) -> str:
        if self._texts:
            return self._random.choice(self._texts)
        return self._generate(self._lengths)

    def _generate(self, points: _Points) -> str:
        words, weights = _words()
        tokens = _quantile(points, self._random.random())
        return " ".join(self._random.choices(words, cum_weights=weights, k=tokens))


def _quantile(points: _Points, share: float) -> int:
    """Interpolate between the known quantiles of a distribution."""
    at = max(1, bisect.bisect_left([point[0] for point in points], share))
    (left, low), (right, high) = points[at - 1], points[at]
    return round(low + (high - low) * (share - left) / (right - left))


@cache
def _words() -> tuple[list[str], list[float]]:
    """Return words of one token each, most frequent first, and their cumulative Zipf weights.

    They are the English words of the demo that are one piece of the embedded model's vocabulary.
    """
    folder = files("rerank_plugins")
    pieces = folder / "backends" / "embedded" / "pieces.txt"
    known = frozenset(pieces.read_text(encoding="utf-8").split("\n"))
    corpus = folder / "evaluation" / "demo" / "covidqa" / "corpus.jsonl"
    texts = [json.loads(line)["text"] for line in corpus.read_text(encoding="utf-8").splitlines()]
    counts = Counter(word for text in texts for word in _WORD.findall(text) if f"▁{word}" in known)
    words = [word for word, _ in counts.most_common()]
    return words, list(accumulate(1 / rank for rank in range(10, len(words) + 10)))
