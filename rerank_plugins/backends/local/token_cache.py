"""A bounded, thread-safe cache of tokens or token vectors, by text."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from rerank_plugins._internal.locks import ForkSafeLock

__all__ = ["TokenCache", "Tokens"]

Tokens: TypeAlias = tuple[NDArray[np.int32], int]
"""The ids, as many as a pair can hold, and how many the whole text has."""

Entry = TypeVar("Entry", bound=tuple[Any, ...])
"""What is cached of a text; its first item has one element per token."""

_KEPT = 1 << 20

_ENTRY_COST = 64  # what an entry takes beside its ids, counted in tokens


class TokenCache(Generic[Entry]):
    """Keeps the entries of the texts used last, up to a number of tokens.

    The key is a 128-bit digest: the texts themselves are not kept.

    Args:
        limit: tokens to keep; 0 keeps nothing, None 1,048,576 tokens.
        entry_cost: what an entry takes beside its tokens, counted in these.
    """

    def __init__(self, limit: int | None, *, entry_cost: int = _ENTRY_COST) -> None:
        self._limit = _KEPT if limit is None else limit
        self._entry_cost = entry_cost
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._size = 0
        self._lock = ForkSafeLock()

    def fill(
        self, texts: Iterable[str], encode: Callable[[Sequence[str]], list[Entry]]
    ) -> dict[str, Entry]:
        """Return the entry of each distinct text; one call of `encode` makes the missing ones."""
        entries: dict[str, Entry | None] = dict.fromkeys(texts)
        if not self._limit:
            return dict(zip(entries, encode(list(entries)), strict=True))
        keys = {text: hashlib.blake2b(text.encode(), digest_size=16).digest() for text in entries}
        with self._lock:
            for text, key in keys.items():
                if key in self._entries:
                    self._entries.move_to_end(key)
                    entries[text] = self._entries[key]
        missing = [text for text, entry in entries.items() if entry is None]
        for text, entry in zip(missing, encode(missing), strict=True):
            entries[text] = entry
            self._add(keys[text], entry)
        return {text: entry for text, entry in entries.items() if entry is not None}

    def _add(self, key: bytes, entry: Entry) -> None:
        cost = len(entry[0]) + self._entry_cost
        with self._lock:
            if key in self._entries or cost > self._limit:
                return
            self._entries[key] = entry
            self._size += cost
            while self._size > self._limit:
                _, oldest = self._entries.popitem(last=False)
                self._size -= len(oldest[0]) + self._entry_cost

    def __len__(self) -> int:
        return len(self._entries)
