"""Text in scripts that the English model can't read, compared by character n-grams."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

__all__ = ["overlap", "split_unreadable"]

# Letters outside the Latin script, with the vowel signs of Indic and South-East Asian scripts.
# Greek counts from three letters on: single ones are symbols, which the model knows.
_UNREADABLE = re.compile(
    r"(?:[^\W\d_\u0000-\u03FF\u1E00-\u2BFF]|[\u0900-\u109F])+|[\u0370-\u03FF]{3,}"
)
_FUNCTION_WORDS = re.compile(
    "[的了在是和與与及為为什么甚麼哪些谁誰何怎樣样這这那於于由被以其之也就而或吗嗎呢多少几幾]"
)
"""Chinese characters that say little about a text's subject; runs are split at them."""
_MAX_SIZE = 3
"""Letters in the longest n-gram."""
_DAMPING_LENGTH = 1_000
"""Letters of a document at which its overlap is halved, since long texts match by chance."""


def split_unreadable(text: str) -> tuple[str, list[str]]:
    """Return the text without the letters the model can't read, and the runs of these."""
    if text.isascii():
        return text, []
    text = unicodedata.normalize("NFKC", text)
    runs = _FUNCTION_WORDS.sub(" ", " ".join(_UNREADABLE.findall(text))).casefold().split()
    return _UNREADABLE.sub(" ", text), runs


def overlap(query: list[str], document: list[str]) -> float:
    """Return the share of the query's n-grams that occur in the document, from 0 to 1.

    N-grams have one to three letters of one run: they need no dictionary, and in Chinese they
    keep up with BM25 over words (see the table in docs/embedded.md). The share is damped by the
    document's length, as BM25 does.
    """
    ngrams = set(_ngrams(query))
    if not ngrams:
        return 0.0
    text = " ".join(document)
    share = sum(ngram in text for ngram in ngrams) / len(ngrams)
    return share / (1.0 + len(text) / _DAMPING_LENGTH)


def _ngrams(runs: list[str]) -> Iterator[str]:
    for run in runs:
        for size in range(1, _MAX_SIZE + 1):
            for start in range(len(run) - size + 1):
                yield run[start : start + size]
