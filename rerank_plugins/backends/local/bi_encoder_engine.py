"""Scoring with vectors of texts: those of documents are kept, and compared by a product."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.backends.late_interaction import TextVectors, compress, max_sim
from rerank_plugins.backends.local.bi_encoder import BiEncoder
from rerank_plugins.backends.local.document_windows import DocumentWindows
from rerank_plugins.backends.local.engine import EngineStats, Request, Runner, query_text
from rerank_plugins.backends.local.text_tokenizer import Role, TextTokenizer
from rerank_plugins.backends.local.token_cache import TokenCache
from rerank_plugins.backends.local.tokenizer import Pairs
from rerank_plugins.backends.vector_store import VectorStore
from rerank_plugins.errors import BackendError
from rerank_plugins.scores import Scores, Usage

__all__ = ["BiEncoderEngine"]

_CHUNK = 256
"""Documents embedded and compared at once: keeps memory flat over any number of them."""

_KEPT = 1 << 17
"""Vectors kept by default; of 128 numbers, they take 64 MiB."""

_KEPT_QUERIES = {"late interaction": 1 << 17, "embedding model": 1 << 12}
"""Vectors of queries kept: a server scores a long request in many calls, in turn with others."""

_LEAST_LENGTH = 1e-12
"""The shortest vector that is scaled to length 1; torch has the same."""


class BiEncoderEngine:
    """Scores pairs by the vectors that a runner makes of each text alone.

    Args:
        runner: gives the vectors.
        tokenizer: makes tokens of texts.
        bi_encoder: how vectors are compared.
        cached_tokens: vectors of documents kept for the next request; 0 keeps none, None 131,072.
            Those of the last queries always are.
        best_windows: how many windows make the score of a long document.
        in_8_bits: round the vectors of documents.
        store: where vectors of documents are kept as well, which rounds them.
    """

    def __init__(
        self,
        runner: Runner,
        tokenizer: TextTokenizer,
        bi_encoder: BiEncoder,
        *,
        cached_tokens: int | None,
        best_windows: int = 1,
        in_8_bits: bool = False,
        store: VectorStore | None = None,
    ) -> None:
        self._runner = runner
        self._tokenizer = tokenizer
        self._similarity = bi_encoder.similarity
        self._one_each = bi_encoder.method == "embedding model"
        self._store = store
        self._in_8_bits = in_8_bits or store is not None
        self._name = runner.name
        if self._in_8_bits and not in_8_bits:
            self._name += "+int8-vectors"
        self._best_windows = best_windows
        limit = _KEPT if cached_tokens is None else cached_tokens
        self._documents: TokenCache[TextVectors] = TokenCache(limit, entry_cost=1)
        self._queries: TokenCache[TextVectors] = TokenCache(
            _KEPT_QUERIES[bi_encoder.method], entry_cost=1
        )

    @property
    def name(self) -> str:
        return self._name

    def logits(self, requests: Sequence[Request]) -> list[Scores]:
        """Return the similarities of each request, with `truncated` and `usage.tokens`."""
        queries = self._queries.fill(
            (query_text(query) for query, texts in requests if texts),
            lambda missing: self._embed(missing, "query"),
        )
        parts: list[list[Scores]] = [[] for _ in requests]
        for chunk in _chunks(requests):
            vectors = self._documents.fill(
                (document for _, documents in chunk for document in documents),
                self._document_vectors,
            )
            for index, documents in chunk:
                query = queries[query_text(requests[index][0])]
                parts[index].append(self._compare(query, documents, vectors))
        return [
            _joined(own, queries[query_text(query)].tokens if documents else 0)
            for own, (query, documents) in zip(parts, requests, strict=True)
        ]

    def describe(self) -> dict[str, object]:
        return {
            **self._runner.describe(),
            **self._tokenizer.describe(),
            "cached_documents": len(self._documents),
            **({} if self._store is None else self._store.describe()),
        }

    def stats(self) -> EngineStats:
        return self._runner.stats()

    def memory(self) -> dict[str, int]:
        return self._runner.memory()

    def close(self) -> None:
        self._runner.close()

    def _compare(
        self, query: TextVectors, documents: Sequence[str], vectors: Mapping[str, TextVectors]
    ) -> Scores:
        own = [vectors[document] for document in documents]
        total = self._similarity == "maxsim"
        matches = max_sim(query, own, total=total, best_windows=self._best_windows)
        return Scores(
            [match.score for match in matches],
            scale="similarity",
            truncated=[i for i, each in enumerate(own) if each.is_truncated or query.is_truncated],
            read={i: each.read for i, each in enumerate(own) if each.read is not None},
            windows={i: len(each.windows) for i, each in enumerate(own) if each.passages},
            passages={
                i: each.passages[match.window]
                for i, (each, match) in enumerate(zip(own, matches, strict=True))
                if each.passages
            },
            usage=Usage(tokens=sum(each.tokens for each in own)),
        )

    def _document_vectors(self, texts: Sequence[str]) -> list[TextVectors]:
        if self._store is None:
            return self._embed(texts, "document")
        return self._store.fill(self._name, texts, lambda missing: self._embed(missing, "document"))

    def _embed(self, texts: Sequence[str], role: Role) -> list[TextVectors]:
        """Return the vectors of texts; a text without tokens has none.

        Raises:
            BackendError: the model gave numbers that are not finite.
        """
        if not texts:
            return []
        pairs = self._tokenizer.encode(texts, role)
        filled = np.flatnonzero(pairs.lengths)
        rows = np.zeros((0, 1), np.float32)
        if len(filled):
            runs = pairs if len(filled) == len(pairs) else pairs.take(filled.tolist())
            rows = np.asarray(self._runner.run(runs), np.float32)
        if not np.isfinite(rows).all():
            raise BackendError(
                "the model gave vectors that are not finite; its weights are broken, or too large "
                'for this dtype: set dtype="float32"'
            )
        if self._similarity == "cosine":
            rows = _unit(rows)
        counts = np.sign(pairs.lengths) if self._one_each else pairs.compared_counts
        vectors = _vectors(pairs, counts, rows)
        if role == "document" and self._in_8_bits:
            return list(map(compress, vectors))
        return list(vectors)


def _vectors(
    pairs: Pairs, counts: NDArray[np.int64], rows: NDArray[np.float32]
) -> Iterator[TextVectors]:
    """Yield the vectors of each text, of which each pair has so many rows."""
    bounds = np.concatenate([[0], np.cumsum(counts)]).tolist()
    lengths = pairs.lengths.tolist()
    cuts = [False] * len(pairs) if pairs.truncated is None else pairs.truncated.tolist()
    facts = pairs.windows or DocumentWindows([1] * len(pairs), [None] * len(pairs))
    start = 0
    for text, number in enumerate(facts.counts):
        end, read = start + number, facts.read.get(text)
        own = TextVectors(
            rows[bounds[start] : bounds[end]].copy(),
            tokens=sum(lengths[start:end]),
            is_truncated=any(cuts[start:end]) or read is not None,
            read=read,
        )
        if number > 1:
            filled = [at for at in range(start, end) if counts[at]]
            own = own._replace(
                windows=tuple(bounds[at] - bounds[start] for at in filled),
                passages=tuple(filter(None, (facts.passages[at] for at in filled))),
            )
        yield own
        start = end


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = rows / np.maximum(lengths, np.float32(_LEAST_LENGTH))
    return unit


def _chunks(requests: Sequence[Request]) -> Iterator[list[tuple[int, Sequence[str]]]]:
    """Yield parts of requests, each with its request's index, of so many documents together."""
    chunk: list[tuple[int, Sequence[str]]] = []
    room = _CHUNK
    for index, (_, documents) in enumerate(requests):
        start = 0
        while start < len(documents):
            part = documents[start : start + room]
            chunk.append((index, part))
            start, room = start + len(part), room - len(part)
            if not room:
                yield chunk
                chunk, room = [], _CHUNK
    if chunk:
        yield chunk


def _joined(parts: Sequence[Scores], query_tokens: int) -> Scores:
    """Return the scores of one request from those of its parts, in order."""
    count = sum(map(len, parts))
    places = iter(range(count))
    merged = Scores.merge(count, [([next(places) for _ in part], part) for part in parts])
    tokens = query_tokens + sum(part.usage.tokens or 0 for part in parts if part.usage)
    return replace(merged, scale="similarity", usage=Usage(tokens=tokens))
