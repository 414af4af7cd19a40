"""From texts to the token ids of pairs, without the overhead of a transformers tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins._internal.long_documents import LongDocuments, pool
from rerank_plugins._internal.optional import require
from rerank_plugins.backends.local.checkpoint import Checkpoint
from rerank_plugins.backends.local.document_windows import (
    CutLog,
    DocumentWindows,
    WindowCollector,
    WindowedText,
    read_windows,
)
from rerank_plugins.backends.local.engine import Request, UnsupportedByEngine, query_text
from rerank_plugins.backends.local.text_growth import check_growth
from rerank_plugins.backends.local.token_cache import TokenCache, Tokens
from rerank_plugins.errors import ConfigError
from rerank_plugins.scores import Passage, Scores, Usage

__all__ = [
    "PairTokenizer",
    "Pairs",
    "Pooling",
    "cut_pair",
    "read_tokenizer",
    "scores_by_request",
    "token_ids",
    "without_limits",
]

_log = logging.getLogger(__name__)

_Fact = TypeVar("_Fact")

_CHUNK = 1024  # texts tokenised at once: keeps memory flat over any number of documents


Pooling: TypeAlias = Literal["first", "last", "mean", "tokens"]
"""Which of a pair's tokens a model reads the score from; or it gives a vector for each of them."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Token ids of pairs, or of texts that are read alone, one after another in a flat array."""

    ids: NDArray[np.int32]
    types: NDArray[np.int32]
    """Token type ids, of the same length as `ids`."""
    offsets: NDArray[np.int64]
    """Pair i is `ids[offsets[i]:offsets[i + 1]]`; one more than there are pairs."""
    groups: NDArray[np.int64] | None = None
    """Pairs of equal number begin with the same tokens; None: nothing is known of that."""
    shared: NDArray[np.int64] | None = None
    """How many tokens each pair has in common with its group, always less than its own."""
    truncated: NDArray[np.bool_] | None = None
    """Whether a text of each pair was cut; None: none was."""
    compared: NDArray[np.bool_] | None = None
    """Whether a token's vector is compared, of the same length as `ids`; None: all are."""
    attended: NDArray[np.int64] | None = None
    """How many tokens of each pair, the first ones, the others see; None: all of them."""
    windows: DocumentWindows | None = None
    """Which pairs are windows of one document; None: each is a document. `take()` drops it."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens in each pair."""
        return np.diff(self.offsets)

    def row(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the ids and types of one pair."""
        part = slice(self.offsets[index], self.offsets[index + 1])
        return self.ids[part], self.types[part]

    def take(self, indices: Sequence[int]) -> Pairs:
        """Return these pairs, in this order."""
        rows = [self.row(index) for index in indices]
        return Pairs(
            _concatenated([ids for ids, _ in rows]),
            _concatenated([types for _, types in rows]),
            np.concatenate([[0], np.cumsum([len(ids) for ids, _ in rows], dtype=np.int64)]),
            None if self.groups is None else self.groups[indices],
            None if self.shared is None else self.shared[indices],
            None if self.truncated is None else self.truncated[indices],
            None
            if self.compared is None
            else np.concatenate(
                [self.compared[self.offsets[i] : self.offsets[i + 1]] for i in indices]
                or [np.zeros(0, np.bool_)]
            ),
            None if self.attended is None else self.attended[indices],
        )

    def in_order(
        self, order: Sequence[int], rows: NDArray[Any], *, of_tokens: bool
    ) -> NDArray[Any]:
        """Return rows in the order of the pairs.

        Args:
            order: the pairs that the rows are of, each once.
            rows: one row of each pair, or one of each of its compared tokens.
            of_tokens: which of the two.
        """
        ordered = np.empty_like(rows)
        if not of_tokens:
            ordered[list(order)] = rows
            return ordered
        counts = self.compared_counts
        ends = np.cumsum(counts)
        places = [np.arange(ends[index] - counts[index], ends[index]) for index in order]
        if places:
            ordered[np.concatenate(places)] = rows
        return ordered

    @property
    def compared_rows(self) -> NDArray[np.int64]:
        """The positions in `ids` of the tokens whose vectors are compared."""
        return np.arange(len(self.ids)) if self.compared is None else np.flatnonzero(self.compared)

    @property
    def compared_counts(self) -> NDArray[np.int64]:
        """How many tokens of each pair are compared."""
        if self.compared is None:
            return self.lengths
        counted = np.concatenate([[0], np.cumsum(self.compared)])
        counts: NDArray[np.int64] = np.diff(counted[self.offsets])
        return counts


def scores_by_request(
    requests: Sequence[Request], pairs: Sequence[Pairs], logits: Sequence[float]
) -> list[Scores]:
    """Return the logits of each request with what is known of its pairs.

    Args:
        requests: the requests.
        pairs: their pairs in order, in parts of any size.
        logits: one of each pair.
    """
    documents = _DocumentFacts()
    start = 0
    for part in pairs:
        documents.add(part, logits[start : start + len(part)])
        start += len(part)
    scores: list[Scores] = []
    start = 0
    for _, texts in requests:
        scores.append(documents.scores(range(start, start + len(texts))))
        start += len(texts)
    return scores


class _DocumentFacts:
    """Collects the logits of documents, and what is known of them."""

    def __init__(self) -> None:
        self._logits: list[float] = []
        self._tokens: list[int] = []
        self._truncated: list[bool] = []
        self._read: dict[int, float] = {}
        self._windows: dict[int, int] = {}
        self._passages: dict[int, Passage] = {}

    def add(self, pairs: Pairs, logits: Sequence[float]) -> None:
        """Add the documents of some pairs."""
        lengths = pairs.lengths.tolist()
        cuts = [False] * len(pairs) if pairs.truncated is None else pairs.truncated.tolist()
        if pairs.windows is None:
            self._logits += logits
            self._tokens += lengths
            self._truncated += cuts
            return
        start = 0
        for document, count in enumerate(pairs.windows.counts):
            place = len(self._logits)
            logit, best = pool(logits[start : start + count], pairs.windows.best_windows)
            passage = pairs.windows.passages[start + best]
            read = pairs.windows.read.get(document)
            self._logits.append(logit)
            self._tokens.append(sum(lengths[start : start + count]))
            self._truncated.append(any(cuts[start : start + count]) or read is not None)
            if read is not None:
                self._read[place] = read
            if count > 1:
                self._windows[place] = count
            if passage is not None:
                self._passages[place] = passage
            start += count

    def scores(self, places: range) -> Scores:
        """Return the scores of the documents from one place to another."""
        start, stop = places.start, places.stop
        return Scores(
            self._logits[start:stop],
            scale="logit",
            truncated=[at - start for at in places if self._truncated[at]],
            read=_within(self._read, places),
            windows=_within(self._windows, places),
            passages=_within(self._passages, places),
            usage=Usage(tokens=sum(self._tokens[start:stop])),
        )


def _within(facts: Mapping[int, _Fact], places: range) -> dict[int, _Fact]:
    return {at - places.start: fact for at, fact in facts.items() if at in places}


def without_limits(tokenizer: Any) -> Any:
    """Return a copy of a `tokenizers.Tokenizer` that neither cuts nor pads.

    Raises:
        ConfigError: it would make gigabytes of a short text.
    """
    check_growth(tokenizer)
    copy = type(tokenizer).from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def token_ids(tokenizer: Any, texts: Sequence[str]) -> Iterator[NDArray[np.int32]]:
    """Yield the ids of each text, without special tokens."""
    for start in range(0, len(texts), _CHUNK):
        chunk = list(texts[start : start + _CHUNK])
        for encoding in tokenizer.encode_batch_fast(chunk, add_special_tokens=False):
            yield np.array(encoding.ids, dtype=np.int32)


_TRUNCATE = LongDocuments(long_documents="truncate")


class PairTokenizer:
    """Encodes pairs as the model's own tokenizer would: same ids, same types, same cuts.

    Pairs above `max_length` are cut as transformers' `longest_first` does, which cuts documents
    and spares the query while it fits into half of the room. A query that had to be cut is
    logged once and counted. Safe to share between threads.

    Args:
        tokenizer: a `tokenizers.Tokenizer`; copied, so that no one else's settings matter.
        max_length: the most tokens in a pair, special tokens included.
        cut_left: cut the start of a text instead of its end.
        uses_types: whether the model reads token types; if not, they are all 0.
        cached_tokens: document tokens kept for the next request; 0 keeps none, None 1,048,576.
        query_prefix: put before every query.
        long_documents: what becomes of documents that don't fit beside the query.

    Raises:
        UnsupportedByEngine: the tokenizer treats pairs in a way that can't be reproduced.
        ConfigError: `max_length` leaves no room for text.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int,
        cut_left: bool = False,
        uses_types: bool = True,
        cached_tokens: int | None = None,
        query_prefix: str = "",
        long_documents: LongDocuments = _TRUNCATE,
    ) -> None:
        self._query_prefix = query_prefix
        self._long_documents = long_documents
        self._cut_log = CutLog(long_documents)
        self._tokenizer = without_limits(tokenizer)
        template = _Template.of(self._tokenizer)
        self._template = template if uses_types else template.without_types()
        self._room = max_length - self._template.special_tokens
        if self._room < 2:  # noqa: PLR2004 - one token of the query and one of the document
            raise ConfigError(
                f"`max_length` is {max_length}, which leaves no room for text beside "
                f"{self._template.special_tokens} special tokens"
            )
        self._cut_left = cut_left
        self._documents: TokenCache[Tokens] = TokenCache(cached_tokens)
        self._lock = ForkSafeLock()
        self._truncated_pairs = 0
        self._truncated_queries = 0

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        *,
        cached_tokens: int | None,
        long_documents: LongDocuments = _TRUNCATE,
    ) -> Self:
        """Build the encoder of a checkpoint from its `tokenizer.json`.

        Raises:
            UnsupportedByEngine: there is no such file, only one of an older kind.
            MissingDependencyError: `tokenizers` is not installed.
        """
        return cls(
            read_tokenizer(checkpoint),
            max_length=checkpoint.max_length,
            cut_left=checkpoint.tokenizer_config.get("truncation_side") == "left",
            uses_types=checkpoint.uses_types,
            cached_tokens=cached_tokens,
            query_prefix=checkpoint.query_prefix,
            long_documents=long_documents,
        )

    def encode(self, requests: Sequence[Request]) -> Pairs:
        """Return the pairs of all requests, request after request, in input order.

        A long document is several pairs, its windows.

        Raises:
            UnsupportedInputError: one is too long, and these are refused.
        """
        queries = list(dict.fromkeys(query_text(query) for query, _ in requests))
        prefixed = [self._query_prefix + query for query in queries]
        query_tokens = dict(zip(queries, self._encode(prefixed), strict=True))
        document_tokens = self._documents.fill(
            (document for _, documents in requests for document in documents), self._encode
        )
        assembly = _Assembly(self._template)
        collector = WindowCollector(self._long_documents)
        windowed: dict[tuple[str, int], WindowedText] = {}
        for query, documents in requests:
            query_ids, query_count = query_tokens[query_text(query)]
            for document in documents:
                ids, count = document_tokens[document]
                keep = cut_pair(query_count, count, self._room)
                self._cut_log.check(count, keep[1])
                size = self._long_documents.size(keep[1])
                if count > size and self._long_documents.windows > 1:
                    text = windowed.get((document, size))
                    if text is None:
                        text = windowed[document, size] = self._windows(document, size)
                    own = self._cut(query_ids, keep[0])
                    whole = np.array(text.ids, np.int32)
                    for window in text.windows:
                        part = whole[window.first : window.last]
                        assembly.add(own, part, is_cut=keep[0] < query_count)
                    collector.windowed(text)
                    self._count(query_count, keep[0], windowed=True, read=text.read)
                    continue
                is_cut = keep != (query_count, count)
                assembly.add(self._cut(query_ids, keep[0]), self._cut(ids, keep[1]), is_cut=is_cut)
                read = keep[1] / count if keep[1] < count else 1.0
                collector.whole(read)
                if is_cut:
                    self._count(query_count, keep[0], windowed=False, read=read)
        return replace(assembly.pairs(), windows=collector.result())

    def describe(self) -> dict[str, object]:
        """Return how many pairs were cut so far, as JSON-ready facts."""
        return {
            "truncated_pairs": self._truncated_pairs,
            "truncated_queries": self._truncated_queries,
            **self._cut_log.describe(),
        }

    def _windows(self, document: str, size: int) -> WindowedText:
        limit = self._long_documents.windows
        return read_windows(self._tokenizer, document, size, limit=limit)

    def _encode(self, texts: Sequence[str]) -> list[Tokens]:
        return [
            (self._cut(ids, self._room).copy(), len(ids))
            for ids in token_ids(self._tokenizer, texts)
        ]

    def _cut(self, ids: NDArray[np.int32], keep: int) -> NDArray[np.int32]:
        return ids[len(ids) - keep :] if self._cut_left and keep < len(ids) else ids[:keep]

    def _count(self, query_count: int, query_keep: int, *, windowed: bool, read: float) -> None:
        self._cut_log.count(windowed=windowed, read=read)
        with self._lock:
            self._truncated_pairs += query_keep < query_count or read < 1
            self._truncated_queries += query_keep < query_count
            is_first = query_keep < query_count and self._truncated_queries == 1
        if is_first:
            _log.warning(
                "a query of %d tokens was cut to %d, as transformers does; shorten queries or "
                "raise `max_length` (logged once; `describe()` counts)",
                query_count,
                query_keep,
            )


def cut_pair(query: int, document: int, room: int) -> tuple[int, int]:
    """Return how many tokens of each to keep, as `longest_first` of `tokenizers` decides.

    The longer one is cut down to half the room; if both are longer, each gets half.
    """
    if query + document <= room:
        return query, document
    short = min(query, document)
    long = room - short
    if short > long:
        short, long = room // 2, room - room // 2
    return (long, short) if query > document else (short, long)


@dataclass(frozen=True, slots=True)
class _Template:
    """What stands before, between and behind the two texts of a pair, and their type ids."""

    ids: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]
    types: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]
    query_type: int
    document_type: int

    @property
    def special_tokens(self) -> int:
        return sum(len(part) for part in self.ids)

    @classmethod
    def of(cls, tokenizer: Any) -> _Template:
        """Derive the template from one processed pair, and check it on another."""
        ids, types, sources = _processed(tokenizer, "a", "b")
        of_query = [i for i, source in enumerate(sources) if source == 0]
        of_document = [i for i, source in enumerate(sources) if source == 1]
        if not of_query or not of_document or of_query[-1] > of_document[0]:
            raise UnsupportedByEngine(
                "the tokenizer does not join a query and a document in this order"
            )
        bounds = [
            slice(0, of_query[0]),
            slice(of_query[-1] + 1, of_document[0]),
            slice(of_document[-1] + 1, len(ids)),
        ]
        template = cls(
            ids=(ids[bounds[0]], ids[bounds[1]], ids[bounds[2]]),
            types=(types[bounds[0]], types[bounds[1]], types[bounds[2]]),
            query_type=int(types[of_query[0]]),
            document_type=int(types[of_document[0]]),
        )
        template._check(tokenizer, "one two, three", "four five six seven.")
        return template

    def without_types(self) -> _Template:
        """Return the same with all types 0, for a model that reads none."""
        head, middle, tail = (np.zeros_like(types) for types in self.types)
        return replace(self, types=(head, middle, tail), query_type=0, document_type=0)

    def _check(self, tokenizer: Any, query: str, document: str) -> None:
        ids, types, _ = _processed(tokenizer, query, document)
        assembly = _Assembly(self)
        query_ids, document_ids = (
            np.array(tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int32)
            for text in (query, document)
        )
        assembly.add(query_ids, document_ids)
        pairs = assembly.pairs()
        if not np.array_equal(ids, pairs.ids) or not np.array_equal(types, pairs.types):
            raise UnsupportedByEngine("the tokenizer does not join pairs with a fixed template")


class _Assembly:
    """Collects cut texts and joins them to pairs in one go."""

    def __init__(self, template: _Template) -> None:
        self._template = template
        self._parts: list[NDArray[np.int32]] = []
        self._counts: list[int] = []
        self._truncated: list[bool] = []

    def add(
        self, query: NDArray[np.int32], document: NDArray[np.int32], *, is_cut: bool = False
    ) -> None:
        head, middle, tail = self._template.ids
        self._parts += (head, query, middle, document, tail)
        self._counts += (len(head), len(query), len(middle), len(document), len(tail))
        self._truncated.append(is_cut)

    def pairs(self) -> Pairs:
        counts = np.array(self._counts, dtype=np.int64).reshape(-1, 5)
        offsets = np.concatenate([[0], np.cumsum(counts.sum(axis=1))])
        head, middle, tail = self._template.types
        repeats = np.ones((len(counts), self._template.special_tokens + 2), dtype=np.int64)
        repeats[:, len(head)] = counts[:, 1]
        repeats[:, len(head) + 1 + len(middle)] = counts[:, 3]
        row = [*head, self._template.query_type, *middle, self._template.document_type, *tail]
        types = np.repeat(np.tile(np.array(row, np.int32), len(counts)), repeats.ravel())
        truncated = np.array(self._truncated, dtype=np.bool_)
        return Pairs(_concatenated(self._parts), types, offsets, truncated=truncated)


def _processed(
    tokenizer: Any, query: str, document: str
) -> tuple[NDArray[np.int32], NDArray[np.int32], list[int | None]]:
    """Return ids, types and the source of each token: 0, 1, or None for special tokens."""
    pair = tokenizer.encode(query, document)
    return np.array(pair.ids, np.int32), np.array(pair.type_ids, np.int32), pair.sequence_ids


def _concatenated(parts: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def read_tokenizer(checkpoint: Checkpoint) -> Any:
    """Return the `tokenizers.Tokenizer` in a checkpoint's `tokenizer.json`.

    Raises:
        UnsupportedByEngine: there is no such file, only one of an older kind.
        ConfigError: it is broken.
    """
    path = checkpoint.folder / "tokenizer.json"
    if not path.exists():
        raise UnsupportedByEngine(f"{checkpoint.model!r} has no tokenizer.json")
    tokenizers = require("tokenizers", extra="onnx")
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as exc:  # tokenizers raises a bare Exception for a bad file
        raise ConfigError(f"can't read the tokenizer {str(path)!r}: {exc}") from exc
