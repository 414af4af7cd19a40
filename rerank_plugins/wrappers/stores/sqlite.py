"""Scores in a file, for all processes of a machine."""

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
from rerank_plugins.wrappers.stores.guard import Guard

__all__ = ["SQLiteStore"]

_LOCK_SECONDS = 0.25
"""Seconds to wait for another process that writes."""

_KEYS_PER_QUERY = 500  # old builds of SQLite take 999 parameters

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rerank_scores
(id INTEGER PRIMARY KEY, key BLOB UNIQUE NOT NULL, value BLOB NOT NULL, ends REAL NOT NULL)
"""
_WRITE = "INSERT OR REPLACE INTO rerank_scores (key, value, ends) VALUES (?, ?, ?)"
# Each write takes the next id, so ids tell the age and bound the number of rows.
_FORGET = "DELETE FROM rerank_scores WHERE id <= (SELECT max(id) FROM rerank_scores) - ?"


class SQLiteStore:
    """Keeps the values that were written last in an SQLite file.

    Threads and processes of one machine may share the file; it must be on a local disk. A file
    that is corrupt, locked for long or no database at all is left as it is, and left alone for
    30 seconds.

    Args:
        path: the file; made if it is missing. Its folder must exist.
        entries: the maximum number of values; one takes about 120 bytes on disk.
        clock: gives the time in seconds since 1970, since other processes must agree on it.

    Raises:
        ConfigError: `path` is empty, or `entries` is no positive integer.
    """

    blocking = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        entries: int = 1_000_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not os.fspath(path):
            raise ConfigError("the SQLite store has no path; write: sqlite:PATH")
        check_integer("entries", entries)
        self._path = str(Path(path).absolute())
        self._entries = entries
        self._clock = clock
        self._lock = ForkSafeLock()
        self._connection: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self._inherited: list[sqlite3.Connection] = []
        guard = partial(Guard, expected=(sqlite3.Error,), pause=30.0)
        self._reads = guard(f"reading the cache {self._path!r}")
        self._writes = guard(f"writing the cache {self._path!r}")

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        nothing: dict[bytes, bytes] = {}
        values = self._reads.call(lambda: self._read(keys), nothing)
        return [values.get(key) for key in keys]

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        values: dict[bytes, bytes] = {}
        now = self._clock()
        with self._connected() as connection:
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                some = keys[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(some))
                values.update(
                    connection.execute(
                        f"SELECT key, value FROM rerank_scores WHERE key IN ({marks}) AND ends > ?",  # noqa: S608  # only marks
                        (*some, now),
                    )
                )
        return values

    def set_many(self, items: Mapping[bytes, bytes], ttl: float | None) -> None:
        end = math.inf if ttl is None else self._clock() + ttl
        self._writes.call(lambda: self._write(items, end), None)

    def _write(self, items: Mapping[bytes, bytes], end: float) -> None:
        with self._connected() as connection, connection:
            connection.executemany(_WRITE, [(key, value, end) for key, value in items.items()])
            connection.execute(_FORGET, (self._entries,))

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection to one thread at a time."""
        with self._lock:
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
            with suppress(sqlite3.OperationalError):  # another process is about the same
                connection.execute("PRAGMA journal_mode = WAL")  # reading while one writes
            connection.execute("PRAGMA synchronous = OFF")  # lost in a power cut: scored again
            connection.execute(_SCHEMA)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def describe(self) -> dict[str, object]:
        return {
            "kind": "sqlite",
            "path": self._path,
            "max_entries": self._entries,
            "errors": self._reads.errors + self._writes.errors,
        }

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
                self._connection = None

    def __reduce__(self) -> tuple[object, ...]:
        return partial(SQLiteStore, entries=self._entries), (self._path,)
