"""The layout of a batch without padding: where its tokens stand, and what each sequence reads."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.backends.local.tokenizer import Pairs, Pooling

__all__ = ["Pack", "pack", "pack_shared", "rounded_up"]

_LENGTH_STEP = 64  # lengths are rounded up, so that compiled code sees few of them
_SIZES = 64  # of batches, from one power of 2 to the next
_LEAST_SHARED = 16  # below, gathering costs more than it saves


@dataclass(frozen=True, slots=True)
class Pack:
    """Sequences one after another in one row of tokens."""

    ids: NDArray[np.int32]
    positions: NDArray[np.int64]
    types: NDArray[np.int32]
    offsets: NDArray[np.int64]
    """Where each sequence starts, and the end."""
    rows: NDArray[np.int64]
    """The tokens that scores or vectors are read from, in the order of the pairs."""
    key_offsets: NDArray[np.int64]
    """The same as `offsets` for `key_rows`; empty where each sequence reads itself alone."""
    key_rows: NDArray[np.int64]
    """The tokens that each sequence reads, sequence after sequence."""

    @property
    def arrays(self) -> list[NDArray[np.integer[Any]]]:
        """All arrays, in the order of the fields."""
        return [getattr(self, field.name) for field in fields(self)]

    @property
    def longest(self) -> int:
        """At least the length of the longest sequence."""
        return rounded_up(int(np.diff(self.offsets).max()))

    @property
    def longest_key(self) -> int:
        """At least the number of tokens that a sequence reads."""
        return rounded_up(int(np.diff(self.key_offsets).max())) if len(self.key_rows) else 0

    def filled(self) -> Pack:
        """Return the same with up to 1/64 more tokens, which belong to no sequence.

        This limits the number of sizes: on a CPU, oneDNN keeps a kernel for each of the last 1,024
        sizes, and the memory between them is lost.
        """
        step = max(1, (1 << len(self.ids).bit_length()) // (2 * _SIZES))
        more = (0, -len(self.ids) % step)
        return replace(
            self,
            ids=np.pad(self.ids, more),
            positions=np.pad(self.positions, more),
            types=np.pad(self.types, more),
        )


def rounded_up(length: int) -> int:
    """Return the next multiple of the step of lengths."""
    return -(-length // _LENGTH_STEP) * _LENGTH_STEP


def pack(pairs: Pairs, *, pooling: Pooling, first_position: int | None, pad: int | None) -> Pack:
    """Lay out pairs in their order, each a sequence.

    Args:
        pairs: at least one.
        pooling: which row of a pair the head reads.
        first_position: where positions start in models that skip padding tokens, even those typed
            in a text; None: at 0, and every token counts.
        pad: the padding token.
    """
    starts = np.repeat(pairs.offsets[:-1], pairs.lengths)
    if first_position is None:
        positions = np.arange(len(pairs.ids)) - starts
    else:
        real = pairs.ids != pad
        counted = np.concatenate([[0], np.cumsum(real)])
        positions = (counted[1:] - counted[starts]) * real + (first_position - 1)
    rows = pairs.offsets[1:] - 1 if pooling == "last" else pairs.offsets[:-1]
    if pooling == "tokens":
        rows = pairs.compared_rows
    none = np.zeros(0, np.int64)
    return Pack(pairs.ids, positions, pairs.types, pairs.offsets, rows, none, none)


def pack_shared(pairs: Pairs) -> Pack | None:
    """Lay out pairs so that a group's common prefix stands there once; None if that saves nothing.

    Only for causal attention, where shared tokens don't depend on what follows. Each group
    is a sequence of its shared tokens and one for the rest of each pair, which reads both. The
    row of a pair is its last token.
    """
    if pairs.groups is None or pairs.shared is None:
        return None
    numbers, counts = np.unique(pairs.groups, return_counts=True)
    in_batch = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    shared = [
        length if in_batch[group] > 1 and length >= _LEAST_SHARED else 0
        for group, length in zip(pairs.groups.tolist(), pairs.shared.tolist(), strict=True)
    ]
    if not any(shared):
        return None
    layout = _PackedLayout(pairs, shared)
    for index in np.argsort(pairs.groups, kind="stable").tolist():
        layout.add(index, int(pairs.groups[index]))
    return layout.pack()


class _PackedLayout:
    """Collects sequences, what they read, and where each pair ends."""

    def __init__(self, pairs: Pairs, shared: list[int]) -> None:
        self._pairs = pairs
        self._shared = shared
        self._tokens = 0
        self._sources: list[NDArray[np.int64]] = []
        self._positions: list[NDArray[np.int64]] = []
        self._reads: list[NDArray[np.int64]] = []
        self._prefixes: dict[int, NDArray[np.int64]] = {}
        self._rows = np.zeros(len(pairs), np.int64)

    def add(self, index: int, group: int) -> None:
        start, end = self._pairs.offsets[index : index + 2].tolist()
        shared = self._shared[index]
        if shared and group not in self._prefixes:
            self._prefixes[group] = self._place(start, shared, 0)
            self._reads.append(self._prefixes[group])
        own = self._place(start + shared, end - start - shared, shared)
        self._reads.append(np.concatenate([self._prefixes[group], own]) if shared else own)
        self._rows[index] = own[-1]

    def pack(self) -> Pack:
        sources = np.concatenate(self._sources)
        return Pack(
            self._pairs.ids[sources],
            np.concatenate(self._positions),
            self._pairs.types[sources],
            _offsets(self._sources),
            self._rows,
            _offsets(self._reads),
            np.concatenate(self._reads),
        )

    def _place(self, source: int, length: int, position: int) -> NDArray[np.int64]:
        """Put tokens of the pairs at the end of the row; return where they are."""
        self._sources.append(np.arange(source, source + length))
        self._positions.append(np.arange(position, position + length))
        place = np.arange(self._tokens, self._tokens + length)
        self._tokens += length
        return place


def _offsets(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum([len(part) for part in parts])])
