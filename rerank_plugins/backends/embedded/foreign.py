"""Letters the English model can't read, compared as they stand."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

__all__ = ["overlap", "split"]

# Letters outside the Latin script, with the vowel signs of Indic and South-East Asian scripts.
# Greek counts from three letters on: single ones are symbols, which the model knows.
_FOREIGN = re.compile(
    r"(?:[^\W\d_\u0000-\u03FF\u1E00-\u2BFF]|[\u0900-\u109F])+|[\u0370-\u03FF]{3,}"
)
_LONGEST = 3
"""Letters in the longest n-gram."""
_TYPICAL = 3_000
"""Distinct n-grams at which a text counts as twice as likely to match by chance."""


def split(text: str) -> tuple[str, list[str]]:
    """Return the text without its foreign letters, and the runs of letters taken out."""
    if text.isascii():
        return text, []
    text = unicodedata.normalize("NFKC", text)
    return _FOREIGN.sub(" ", text), [run.casefold() for run in _FOREIGN.findall(text)]


def overlap(query: list[str], document: list[str]) -> float:
    """Return the share of the query's n-grams that the document holds, from 0 to 1.

    N-grams are of one to three letters within a run: they need no word list and no dictionary,
    and stand up to BM25 over words in Chinese (see the documentation's table). The share is
    damped by the document's length, as BM25 does it.
    """
    wanted, held = set(_ngrams(query)), set(_ngrams(document))
    return len(wanted & held) / len(wanted) / (1.0 + len(held) / _TYPICAL) if wanted else 0.0


def _ngrams(runs: list[str]) -> Iterator[str]:
    for run in runs:
        for size in range(1, _LONGEST + 1):
            for start in range(len(run) - size + 1):
                yield run[start : start + size]
