"""Word embeddings that stay on disk, except for the rows in use."""

from __future__ import annotations

import mmap

import numpy as np

from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins.backends.local.onnx.build.weights import Array

__all__ = ["EmbeddingTable"]

_KEPT = 4096
"""Rows kept in memory: a few thousand frequent tokens make up most of most texts."""


class EmbeddingTable:
    """Returns rows by token id; safe to share between threads.

    Recent rows are kept. Pages of a mapped file are released once their rows are copied, so a table
    of any size costs the process `kept` rows of memory.

    Args:
        table: tokens x width, from `Tensors`; any other array works too.
        kept: how many rows to keep; when they are full, all are dropped.
    """

    def __init__(self, table: Array, *, kept: int = _KEPT) -> None:
        self._table = table
        self._mapping = _mapping_of(table)
        self._slots = np.full(len(table), -1, np.int32)
        self._rows = np.empty((min(kept, len(table)), table.shape[1]), table.dtype)
        self._used = 0
        self._lock = ForkSafeLock()

    def rows(self, ids: Array) -> Array:
        """Return a copy of these tokens' rows, ids x width, in the dtype of the table.

        Raises:
            IndexError: the table has no such row.
        """
        with self._lock:
            unknown = np.unique(ids[self._slots[ids] < 0])
            if len(unknown) > len(self._rows) - self._used:
                self._slots.fill(-1)
                self._used = 0
                unknown = np.unique(ids)
            if len(unknown) > len(self._rows):
                rows: Array = self._table[ids]
                self._release_pages()
                return rows
            if len(unknown):
                end = self._used + len(unknown)
                self._rows[self._used : end] = self._table[unknown]
                start, self._used = self._used, end  # first: a child forked below has free rows
                self._slots[unknown] = np.arange(start, end)
                self._release_pages()
            kept: Array = self._rows[self._slots[ids]]
            return kept

    def _release_pages(self) -> None:
        """Release the pages from this process; the system's cache still has them."""
        if self._mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapping.madvise(mmap.MADV_DONTNEED)


def _mapping_of(array: Array) -> mmap.mmap | None:
    """Return the read-only mapped file that an array is a view of, if it is one."""
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    return owner if isinstance(owner, mmap.mmap) and not array.flags.writeable else None
