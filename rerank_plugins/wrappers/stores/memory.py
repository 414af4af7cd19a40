"""Values in the memory of this process."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from rerank_plugins._internal.checks import check_integer
from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins.wrappers.stores import SHORT

__all__ = ["MemoryStore"]

_ENTRY_BYTES = 330
"""What an entry takes beside its value."""


class MemoryStore:
    """Keeps the values that were used last; a pickled copy starts empty.

    Args:
        entries: the maximum number of values; a score takes about 350 bytes.
        max_bytes: what all of them may take together, at most.
        clock: gives the time in seconds; monotonic.

    Raises:
        ConfigError: `entries` or `max_bytes` is no positive integer.
    """

    blocking = False

    def __init__(
        self,
        *,
        entries: int = 100_000,
        max_bytes: int = 1 << 28,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_integer("entries", entries)
        check_integer("max_bytes", max_bytes)
        self._entries = entries
        self._max_bytes = max_bytes
        self._bytes = 0
        self._clock = clock
        self._lock = ForkSafeLock()
        self._kept: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()

    def get_many(
        self,
        keys: Sequence[bytes],
        *,
        longest: int = SHORT,  # noqa: ARG002  # all that is here was written by this process
    ) -> list[bytes | None]:
        now = self._clock()
        with self._lock:
            return [self._get(key, now) for key in keys]

    def _get(self, key: bytes, now: float) -> bytes | None:
        entry = self._kept.get(key)
        if entry is None:
            return None
        value, end = entry
        if end <= now:
            self._forget(key)
            return None
        self._kept.move_to_end(key)
        return value

    def set_many(self, items: Mapping[bytes, bytes], ttl: float | None) -> None:
        end = math.inf if ttl is None else self._clock() + ttl
        with self._lock:
            for key, value in items.items():
                if key in self._kept:
                    self._forget(key)
                self._kept[key] = (value, end)
                self._bytes += len(value) + _ENTRY_BYTES
            while len(self._kept) > self._entries or self._bytes > self._max_bytes:
                self._forget(next(iter(self._kept)))

    def _forget(self, key: bytes) -> None:
        value, _ = self._kept.pop(key)
        self._bytes -= len(value) + _ENTRY_BYTES

    def describe(self) -> dict[str, object]:
        return {
            "kind": "memory",
            "entries": len(self._kept),
            "max_entries": self._entries,
            "bytes": self._bytes,
            "max_bytes": self._max_bytes,
        }

    def close(self) -> None:
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def __reduce__(self) -> tuple[object, ...]:
        return partial(MemoryStore, entries=self._entries, max_bytes=self._max_bytes), ()
