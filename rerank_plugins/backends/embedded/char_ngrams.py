"""Text in scripts that the English model can't read, compared by character n-grams."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import add

from rerank_plugins._internal.nfkc import nfkc

__all__ = ["ngrams", "overlap", "split_unreadable"]

# Letters outside the Latin script, with the vowel signs of Indic and South-East Asian scripts.
# Greek counts from three letters on: single ones are symbols, which the model knows.
_UNREADABLE = re.compile(
    r"(?:[^\W\d_\u0000-\u03FF\u1E00-\u2BFF]|[\u0900-\u109F])+|[\u0370-\u03FF]{3,}"
)
_FUNCTION_WORDS = re.compile(
    "[的了在是和與与及為为什么甚麼哪些谁誰何怎樣样這这那於于由被以其之也就而或吗嗎呢多少几幾]"
)
"""Chinese characters that say little about a text's subject; runs are split at them."""
_FEW = 256
"""N-grams that are sought one by one; more take longer than those of a whole document."""
_DAMPING_LENGTH = 1_000
"""Letters of a document at which its overlap is halved."""


def split_unreadable(text: str) -> tuple[str, list[str]]:
    """Return the text without the letters the model can't read, and the runs of these."""
    if text.isascii():
        return text, []
    text = nfkc(text)
    runs = _FUNCTION_WORDS.sub(" ", " ".join(_UNREADABLE.findall(text))).casefold().split()
    return _UNREADABLE.sub(" ", text), runs


def ngrams(runs: Iterable[str]) -> frozenset[str]:
    """Return the distinct n-grams of runs.

    They have one to three letters of one run: they need no dictionary, and in Chinese they keep up
    with BM25 over words (see the table in docs/embedded.md).
    """
    return frozenset(chain.from_iterable(map(_ngrams, runs)))


def overlap(query: frozenset[str], document: Sequence[str]) -> float:
    """Return the share of the query's n-grams that occur in the document's runs, from 0 to 1.

    It is damped by the document's length, as BM25 does, since long texts match by chance.
    """
    if not query:
        return 0.0
    text = " ".join(document)
    if len(query) <= _FEW:
        found = sum(ngram in text for ngram in query)
    else:
        found = len(query & ngrams(document))
    return found / len(query) / (1.0 + len(text) / _DAMPING_LENGTH)


def _ngrams(run: str) -> Iterator[str]:
    pairs = list(map(add, run, run[1:]))
    return chain(run, pairs, map(add, pairs, run[2:]))
