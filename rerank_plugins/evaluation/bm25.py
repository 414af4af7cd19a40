"""BM25, the first stage of datasets that come without one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from rerank_plugins._internal.nfkc import nfkc
from rerank_plugins._internal.optional import require
from rerank_plugins.errors import ConfigError

__all__ = ["BM25_NAME", "bm25", "tokenize"]

BM25_NAME = "BM25"

_WORD = re.compile(r"[^\W_]+")
_CJK = "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]"
_RUNS = re.compile(f"({_CJK}+)")


def bm25(
    queries: Mapping[str, str], documents: Mapping[str, str], *, depth: int
) -> dict[str, list[str]]:
    """Retrieve at most `depth` documents per query with BM25 (bm25s, Lucene's variant).

    Terms are the words of `tokenize()` without English stop words, stemmed (Snowball). Documents
    that share no term with the query are left out. Equal scores keep the documents' order.

    Args:
        queries: query id → text.
        documents: document id → text.
        depth: how many documents to return per query, at most.

    Raises:
        ConfigError: `depth` is below 1.
        MissingDependencyError: `bm25s` or `PyStemmer` is not installed.
    """
    if depth < 1:
        raise ConfigError(f"`depth` must be at least 1, not {depth!r}")
    if not documents:
        return {query: [] for query in queries}
    module = require("bm25s", extra="eval")
    stem = require("Stemmer", extra="eval").Stemmer("english").stemWords
    stop_words = frozenset(module.stopwords.STOPWORDS_EN)

    def terms(text: str) -> list[str]:
        stems: list[str] = stem([word for word in tokenize(text) if word not in stop_words])
        return stems

    index = module.BM25(method="lucene", dtype="float64")
    ids = list(documents)
    tokens = [terms(text) for text in documents.values()]
    if not any(tokens):
        return {query: [] for query in queries}
    index.index(tokens, show_progress=False)
    candidates = {}
    for query, text in queries.items():
        known = [term for term in terms(text) if term in index.vocab_dict]
        scores = index.get_scores(known) if known else ()
        best = sorted((-score, row) for row, score in enumerate(scores) if score > 0)
        candidates[query] = [ids[row] for _, row in best[:depth]]
    return candidates


def tokenize(text: str) -> list[str]:
    """Split a text into lower-case words, and Chinese and Japanese into pairs of characters.

    Pairs need no dictionary, and match names that a dictionary lacks.
    """
    folded = nfkc(text).casefold()
    return [token for word in _WORD.findall(folded) for token in _split(word)]


def _split(word: str) -> Iterator[str]:
    if word.isascii():
        yield word
        return
    for part in filter(None, _RUNS.split(word)):
        if len(part) == 1 or not _RUNS.match(part):
            yield part
        else:
            yield from (part[start : start + 2] for start in range(len(part) - 1))
