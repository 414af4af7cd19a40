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
_FUNCTION_WORDS = re.compile(
    "[的了在是和與与及為为什么甚麼哪些谁誰何怎樣样這这那於于由被以其之也就而或吗嗎呢多少几幾]"
)
"""Chinese characters that say little of what a text is about; runs are split at them."""
_LONGEST = 3
"""Letters in the longest n-gram."""
_TYPICAL = 1_000
"""Letters at which a text counts as twice as likely to match by chance."""


def split(text: str) -> tuple[str, list[str]]:
    """Return the text without its foreign letters, and the runs of them that it had."""
    if text.isascii():
        return text, []
    text = unicodedata.normalize("NFKC", text)
    runs = _FUNCTION_WORDS.sub(" ", " ".join(_FOREIGN.findall(text))).casefold().split()
    return _FOREIGN.sub(" ", text), runs


def overlap(query: list[str], document: list[str]) -> float:
    """Return the share of the query's n-grams that the document holds, from 0 to 1.

    N-grams are of one to three letters within a run: they need no dictionary, and in Chinese
    they stand up to BM25 over words (see the documentation's table). The share is damped by the
    document's length, as BM25 does it.
    """
    wanted = set(_ngrams(query))
    if not wanted:
        return 0.0
    held = " ".join(document)
    share = sum(ngram in held for ngram in wanted) / len(wanted)
    return share / (1.0 + len(held) / _TYPICAL)


def _ngrams(runs: list[str]) -> Iterator[str]:
    for run in runs:
        for size in range(1, _LONGEST + 1):
            for start in range(len(run) - size + 1):
                yield run[start : start + size]
