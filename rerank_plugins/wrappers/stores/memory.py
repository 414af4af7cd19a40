"""Scores in the memory of this process."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from rerank_plugins._internal.checks import check_integer
from rerank_plugins._internal.locks import ForkSafeLock

__all__ = ["MemoryStore"]


class MemoryStore:
    """Keeps the values that were used last; a pickled copy starts empty.

    Args:
        entries: the maximum number of values; one takes about 350 bytes.
        clock: gives the time in seconds; monotonic.

    Raises:
        ConfigError: `entries` is no positive integer.
    """

    blocking = False

    def __init__(
        self, *, entries: int = 100_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        check_integer("entries", entries)
        self._entries = entries
        self._clock = clock
        self._lock = ForkSafeLock()
        self._kept: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        now = self._clock()
        with self._lock:
            return [self._get(key, now) for key in keys]

    def _get(self, key: bytes, now: float) -> bytes | None:
        entry = self._kept.get(key)
        if entry is None:
            return None
        value, end = entry
        if end <= now:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return value

    def set_many(self, items: Mapping[bytes, bytes], ttl: float | None) -> None:
        end = math.inf if ttl is None else self._clock() + ttl
        with self._lock:
            for key, value in items.items():
                self._kept[key] = (value, end)
                self._kept.move_to_end(key)
            while len(self._kept) > self._entries:
                self._kept.popitem(last=False)

    def describe(self) -> dict[str, object]:
        return {"kind": "memory", "entries": len(self._kept), "max_entries": self._entries}

    def close(self) -> None:
        with self._lock:
            self._kept.clear()

    def __reduce__(self) -> tuple[object, ...]:
        return partial(MemoryStore, entries=self._entries), ()
