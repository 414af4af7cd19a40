"""Late interaction: each query vector takes its best match in the document."""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, starmap
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rerank_plugins._internal.long_documents import pool
from rerank_plugins.scores import Passage

__all__ = [
    "Sentence",
    "TextVectors",
    "WindowMatch",
    "compress",
    "from_bytes",
    "max_sim",
    "quantize",
    "to_bytes",
]

_HEADER = struct.Struct("<4s?d4II")
"""A mark, whether the text was cut, what share of it was read (-1: unknown); and how many rows,
numbers in each, windows, tokens and passages."""
_LARGEST_SCALE = 1e15
"""No vector is so long; products of longer ones overflow."""
_MARK = b"vec2"  # another when the form of the bytes changes


class Sentence(NamedTuple):
    """A sentence of a window."""

    row: int
    """That of its first vector; it goes on to that of the next sentence, or of the window."""
    passage: Passage
    """Its text."""


class TextVectors(NamedTuple):
    """A text as the model sees it: what each token means in its context, or the whole of it."""

    rows: NDArray[np.int8] | NDArray[np.float32]
    """One vector per token, or a single one."""
    scales: NDArray[np.float32] | None = None
    """What each row is multiplied by; None: the rows are meant as they are."""
    windows: tuple[int, ...] = (0,)
    """Where each window starts: `(0,)` if the text was read at once, none for an empty text."""
    tokens: int = 0
    """How many tokens were read."""
    is_truncated: bool = False
    """Whether these are not all tokens of the text."""
    passages: tuple[Passage, ...] = ()
    """The text of each window; none if there is one window."""
    read: float | None = None
    """The share of the text that was read, of a truncated one; None: nobody knows."""
    sentences: tuple[Sentence, ...] = ()
    """Those of all windows in their order, where they are known; not written by `to_bytes`."""

    def vectors(self) -> NDArray[np.float32]:
        """Return the vectors, one per row, with their scales applied."""
        if self.scales is None:
            return self.rows.astype(np.float32, copy=False)
        return self.rows * self.scales[:, None]

    def at(self, keep: NDArray[np.bool_]) -> TextVectors:
        """Return the vectors chosen by a mask, as one window."""
        scales = None if self.scales is None else self.scales[keep]
        return self._replace(rows=self.rows[keep], scales=scales, windows=(0,))


def quantize(vectors: Sequence[NDArray[np.float32]], *, is_truncated: bool = False) -> TextVectors:
    """Round the vectors of windows, tokens x width each, to 8 bits and to length 1.

    Each row is rounded by its largest number. All are finite, and none is zero.
    """
    rows = np.concatenate(vectors) if vectors else np.zeros((0, 1), np.float32)
    directions, lengths = _rounded(rows)
    starts = tuple(accumulate(map(len, vectors[:-1]), initial=0)) if vectors else ()
    inverse = (1.0 / lengths).astype(np.float32)
    return TextVectors(directions, inverse, starts, len(rows), is_truncated)


def compress(exact: TextVectors) -> TextVectors:
    """Round vectors to 8 bits, each by its largest number; they keep their lengths."""
    rows = exact.vectors()
    directions, lengths = _rounded(rows)
    scales = np.linalg.norm(rows, axis=1) / np.maximum(lengths, 1)  # a row of zeros has length 0
    return exact._replace(rows=directions, scales=scales.astype(np.float32))


def _rounded(rows: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return rows in 8 bits, and the lengths of these."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    directions = np.rint(rows * (127.0 / np.where(largest == 0, 1, largest))).astype(np.int8)
    return directions, np.linalg.norm(directions.astype(np.float32), axis=1)


def to_bytes(vectors: TextVectors) -> bytes:
    """Write vectors in 8 bits; they must have scales, as `compress` and `quantize` give them.

    After the header come the windows (32 bits each), the passages (twice 32 bits), the scales
    (32 bits), and the rows.
    """
    assert vectors.scales is not None  # noqa: S101 - the caller's promise
    count, width = vectors.rows.shape
    header = _HEADER.pack(
        _MARK,
        vectors.is_truncated,
        -1.0 if vectors.read is None else vectors.read,
        count,
        width,
        len(vectors.windows),
        vectors.tokens,
        len(vectors.passages),
    )
    windows = np.array(vectors.windows, "<i4").tobytes()
    passages = np.array(vectors.passages, "<i4").tobytes()
    return (
        header
        + windows
        + passages
        + vectors.scales.astype("<f4").tobytes()
        + vectors.rows.tobytes()
    )


def from_bytes(data: bytes) -> TextVectors | None:
    """Read what `to_bytes` wrote; None if it wrote something else."""
    if len(data) < _HEADER.size:
        return None
    mark, is_truncated, read, count, width, places, tokens, spans = _HEADER.unpack_from(data)
    facts = _HEADER.size + 4 * places + 8 * spans
    if mark != _MARK or len(data) != facts + 4 * count + count * width:
        return None
    windows = np.frombuffer(data, "<i4", places, _HEADER.size)
    passages = np.frombuffer(data, "<i4", 2 * spans, _HEADER.size + 4 * places).reshape(-1, 2)
    if spans not in (0, places) or not (0 <= passages[:, 0]).all():
        return None
    if not (passages[:, 0] <= passages[:, 1]).all() or not (read == -1 or 0 <= read <= 1):
        return None
    scales = np.frombuffer(data, "<f4", count, facts)
    rows = np.frombuffer(data, np.int8, count * width, len(data) - count * width)
    starts_well = not places or (windows[0] == 0 and bool((np.diff(windows) > 0).all()))
    if not starts_well or (places and windows[-1] >= max(1, count)) or (count and not places):
        return None
    if not ((scales >= 0) & (scales < _LARGEST_SCALE)).all():  # nor is any of them no number
        return None
    return TextVectors(
        rows.reshape(count, width),
        scales.astype(np.float32, copy=False),
        tuple(windows.tolist()),
        tokens,
        is_truncated,
        tuple(starmap(Passage, passages.tolist())),
        None if read == -1 else read,
    )


class WindowMatch(NamedTuple):
    """How well a document matches a query."""

    score: float
    window: int
    """Which of its windows matches best."""
    sentence: Passage | None = None
    """The sentence of this window that matches best, where sentences are known."""


def max_sim(
    query: TextVectors,
    documents: Sequence[TextVectors],
    *,
    total: bool = False,
    best_windows: int = 1,
) -> list[WindowMatch]:
    """Return how well the best window of each document matches the query.

    A window's match is the mean (or the sum) over query vectors of their largest product with a
    vector there: the MaxSim operator of ColBERT, https://arxiv.org/abs/2004.12832. Of vectors of
    length 1 the mean is from -1 to 1. A document without vectors gets 0.

    Args:
        query: the vectors of the query.
        documents: those of each document, of the same width.
        total: add up the query's matches, as ColBERT does, instead of taking their mean.
        best_windows: how many of a document's best windows count: the mean of their matches.
    """
    matched = [WindowMatch(0.0, 0)] * len(documents)
    filled = [i for i, document in enumerate(documents) if len(document.rows)]
    if not filled or not len(query.rows):
        return matched
    offsets = [*accumulate((len(documents[i].rows) for i in filled[:-1]), initial=0)]
    windows = [
        offset + start
        for offset, i in zip(offsets, filled, strict=True)
        for start in documents[i].windows
    ]
    matches = query.vectors() @ np.concatenate([documents[i].vectors() for i in filled]).T
    best = np.maximum.reduceat(matches, windows, axis=1)
    by_window = best.sum(axis=0) if total else best.mean(axis=0)
    values, first = by_window.tolist(), 0
    for offset, i in zip(offsets, filled, strict=True):
        last = first + len(documents[i].windows)
        value, window = pool(values[first:last], best_windows)
        sentence = _best_sentence(matches, offset, documents[i], window)
        matched[i] = WindowMatch(value, window, sentence)
        first = last
    return matched


def _best_sentence(
    matches: NDArray[np.float32], offset: int, document: TextVectors, window: int
) -> Passage | None:
    """Return the sentence of a window with the largest match, from products that are there.

    Args:
        matches: those of each query vector with the vectors of all documents.
        offset: where the document's begin among these.
        document: the document.
        window: the number of its window.
    """
    bounds = [*document.windows, len(document.rows)]
    start, stop = bounds[window : window + 2]
    rows = [sentence.row for sentence in document.sentences]
    first, last = bisect_left(rows, start), bisect_left(rows, stop)
    if first == last:
        return None
    own = matches[:, offset + start : offset + stop]
    best = np.maximum.reduceat(own, [row - start for row in rows[first:last]], axis=1)
    return document.sentences[first + int(best.sum(axis=0).argmax())].passage
