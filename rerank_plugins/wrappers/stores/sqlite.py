"""Values in a file, for all processes of a machine."""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from rerank_plugins._internal.checks import check_integer
from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins.errors import ConfigError
from rerank_plugins.wrappers.stores import SHORT
from rerank_plugins.wrappers.stores.guard import Guard

__all__ = ["SQLiteStore"]

_LOCK_SECONDS = 0.25
"""Seconds to wait for another process that writes."""

_MOST_SECONDS = 5.0
"""Of one operation: a file of others may hold views and triggers, and those may have no end."""
_MOST_BYTES = 2**26
"""Of a row."""
_STEPS = 10_000
"""Steps of SQLite's machine between two looks at the clock."""
_FORGOTTEN = 10_000
"""Values that one write forgets at most, besides four times as many as it writes."""

_KEYS_PER_QUERY = 500  # old builds of SQLite take 999 parameters

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rerank_scores
(id INTEGER PRIMARY KEY, key BLOB UNIQUE NOT NULL, value BLOB NOT NULL, ends REAL NOT NULL)
"""
_WRITE = "INSERT OR REPLACE INTO rerank_scores (key, value, ends) VALUES (?, ?, ?)"
# Each write takes the next id, so ids tell the age and bound the number of rows.
_FORGET = (
    "DELETE FROM rerank_scores WHERE id <= "
    "(SELECT min(max(id) - ?, min(id) + ?) FROM rerank_scores)"
)
_OLDEST = "SELECT id, length(value) FROM rerank_scores ORDER BY id"
_FORGET_OLDEST = "DELETE FROM rerank_scores WHERE id <= ?"

_ROW_BYTES = 120
"""What a row takes beside its value, that in the index of the keys included."""
_SPLIT_BYTES = 1 << 14
"""What a write may take beside its rows, where it splits pages of the index."""
_LEAST_BYTES = 1 << 16
"""Of the smallest file that holds the table, its index and some values."""


class SQLiteStore:
    """Keeps the values that were written last in an SQLite file.

    Threads and processes of one machine may share the file; it must be on a local disk. A file
    that is corrupt, locked for long, no database at all or one that takes more than 5 seconds is
    left as it is, and left alone for 30 seconds.

    Args:
        path: the file; made if it is missing. Its folder must exist.
        entries: the maximum number of values; a score takes about 120 bytes on disk.
        max_bytes: the size of the file at most, from 65,536 on. Beside it SQLite keeps a log of
            some megabytes. A file that is larger already does not shrink; its space is used again.
        clock: gives the time in seconds since 1970, since other processes must agree on it.

    Raises:
        ConfigError: `path` is empty, `entries` is no positive integer, or `max_bytes` is none from
            65,536 on.
    """

    blocking = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        entries: int = 1_000_000,
        max_bytes: int = 1 << 30,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not os.fspath(path):
            raise ConfigError("the SQLite store has no path; write: sqlite:PATH")
        check_integer("entries", entries)
        check_integer("max_bytes", max_bytes, least=_LEAST_BYTES)
        self._path = str(Path(path).absolute())
        self._entries = entries
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = ForkSafeLock()
        self._connection: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self._inherited: list[sqlite3.Connection] = []
        self._end = math.inf
        guard = partial(Guard, expected=(sqlite3.Error,), pause=30.0)
        self._reads = guard(f"reading the cache {self._path!r}")
        self._writes = guard(f"writing the cache {self._path!r}")

    def get_many(self, keys: Sequence[bytes], *, longest: int = SHORT) -> list[bytes | None]:
        nothing: dict[bytes, bytes] = {}
        values = self._reads.call(lambda: self._read(keys, longest), nothing)
        return [values.get(key) for key in keys]

    def _read(self, keys: Sequence[bytes], longest: int) -> dict[bytes, bytes]:
        values: dict[bytes, bytes] = {}
        now = self._clock()
        with self._connected() as connection:
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                some = keys[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(some))
                rows = connection.execute(
                    f"SELECT key, value FROM rerank_scores WHERE key IN ({marks}) "  # noqa: S608  # only marks
                    "AND ends > ? AND length(value) <= ?",
                    (*some, now, longest),
                )
                values.update(rows.fetchmany(len(some)))  # a table has no more
                rows.close()
        return values

    def set_many(self, items: Mapping[bytes, bytes], ttl: float | None) -> None:
        end = math.inf if ttl is None else self._clock() + ttl
        self._writes.call(lambda: self._write(items, end), None)

    def _write(self, items: Mapping[bytes, bytes], end: float) -> None:
        with self._connected() as connection, connection:
            connection.execute("BEGIN IMMEDIATE")  # no other process changes the size meanwhile
            fitting, needed = self._fitting(items)
            most = _FORGOTTEN + 4 * len(fitting)
            if self._make_room(connection, needed, most):
                connection.executemany(_WRITE, [(key, value, end) for key, value in fitting])
            connection.execute(_FORGET, (self._entries, most))

    def _make_room(self, connection: sqlite3.Connection, needed: int, most: int) -> bool:
        """Forget the oldest values until the file holds so many bytes more within its bound.

        Return whether it does: one write forgets so many at most, so that none takes long.
        """
        while (excess := self._used(connection) + needed - self._max_bytes) > 0:
            if self._is_late():
                raise sqlite3.OperationalError("the file takes too much time")
            oldest = connection.execute(_OLDEST)
            forgotten = None
            while excess > 0 and most > 0 and (row := oldest.fetchone()) is not None:
                forgotten, length = row
                excess -= length + _ROW_BYTES
                most -= 1
            oldest.close()
            if forgotten is None:
                return most > 0
            connection.execute(_FORGET_OLDEST, (forgotten,))
        return True

    def _fitting(self, items: Mapping[bytes, bytes]) -> tuple[list[tuple[bytes, bytes]], int]:
        """Return what a quarter of the file has room for, and the bytes that it may take.

        SQLite fills the pages of long values by half at least.
        """
        fitting: list[tuple[bytes, bytes]] = []
        needed = _SPLIT_BYTES
        for key, value in items.items():
            size = 2 * (len(value) + _ROW_BYTES)
            if needed + size <= self._max_bytes // 4 + _SPLIT_BYTES:
                fitting.append((key, value))
                needed += size
        return fitting, needed

    @staticmethod
    def _used(connection: sqlite3.Connection) -> int:
        """Return the bytes of the file that hold something."""
        pages, free, page_bytes = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * page_bytes)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection to one thread at a time."""
        with self._lock:
            self._end = time.monotonic() + _MOST_SECONDS
            if self._pid != os.getpid():
                # Using or closing a connection from before the fork would break the file's locks.
                if self._connection is not None:
                    self._inherited.append(self._connection)
                self._connection, self._pid = None, os.getpid()
            if self._connection is None:
                self._connection = self._opened()
            try:
                yield self._connection
            except sqlite3.Error:
                self._connection.close()  # whatever is wrong, the next try starts afresh
                self._connection = None
                raise

    def _opened(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_LOCK_SECONDS, check_same_thread=False)
        try:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_BYTES)
            connection.set_progress_handler(self._is_late, _STEPS)
            with suppress(sqlite3.OperationalError):  # another process is about the same
                connection.execute("PRAGMA journal_mode = WAL")  # reading while one writes
            connection.execute("PRAGMA synchronous = OFF")  # lost in a power cut: scored again
            connection.execute(_SCHEMA)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _is_late(self) -> bool:
        return time.monotonic() > self._end

    def describe(self) -> dict[str, object]:
        return {
            "kind": "sqlite",
            "path": self._path,
            "max_entries": self._entries,
            "max_bytes": self._max_bytes,
            "errors": self._reads.errors + self._writes.errors,
        }

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
                self._connection = None

    def __reduce__(self) -> tuple[object, ...]:
        make = partial(SQLiteStore, entries=self._entries, max_bytes=self._max_bytes)
        return make, (self._path,)
