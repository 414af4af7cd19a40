"""The rows of a word table that texts need, out of a table that stays on disk."""

from __future__ import annotations

import mmap

import numpy as np

from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins.backends.local.onnx.build.weights import Array

__all__ = ["EmbeddingTable"]

_KEPT = 4096
"""Rows kept in memory: most words of most texts are among the few thousand that are frequent."""


class EmbeddingTable:
    """Gives rows by token id; safe to share between threads.

    Rows read last are kept. Pages of a mapped file are let go once their rows are copied, so
    a table costs the process `kept` rows of memory, however large it is.

    Args:
        table: tokens x width, as `Tensors` gives it; any other array works and stays as it is.
        kept: rows to keep; all are forgotten when one more is needed.
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
                self._let_go()
                return rows
            if len(unknown):
                end = self._used + len(unknown)
                self._rows[self._used : end] = self._table[unknown]
                self._slots[unknown] = np.arange(self._used, end)
                self._used = end
                self._let_go()
            kept: Array = self._rows[self._slots[ids]]
            return kept

    def _let_go(self) -> None:
        """Take the pages out of this process; the system still has them in its cache."""
        if self._mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapping.madvise(mmap.MADV_DONTNEED)


def _mapping_of(array: Array) -> mmap.mmap | None:
    """Return the read-only mapped file that an array is a view of."""
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    return owner if isinstance(owner, mmap.mmap) and not array.flags.writeable else None
