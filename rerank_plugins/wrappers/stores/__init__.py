"""Where a cache keeps values: the interface, and stores by their spec."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import unquote

from rerank_plugins._internal.options import checked_options, unknown, with_options
from rerank_plugins.errors import ConfigError

__all__ = ["SHORT", "Store", "open_store"]

SHORT = 256
"""Bytes of the longest value that a store reads if it is not asked for longer ones."""


@runtime_checkable
class Store(Protocol):
    """Keeps values under keys, and may forget any of them at any time.

    Safe to share between threads. A store that breaks behaves like an empty one: it never
    raises for that, but counts the failure and reports it in `describe()`.
    """

    blocking: bool
    """Whether calls wait for a disk or a network; async callers then make them in a thread."""

    def get_many(self, keys: Sequence[bytes], *, longest: int = SHORT) -> Sequence[bytes | None]:
        """Return one value per key, in order; None for what is missing or out of date.

        Args:
            keys: those of the values.
            longest: bytes of the longest value; a longer one was not written by this package.
        """

    def set_many(self, items: Mapping[bytes, bytes], ttl: float | None) -> None:
        """Keep values, for `ttl` seconds at most; None is as long as there is room."""

    def describe(self) -> dict[str, object]:
        """Return the kind of store, its size and its failures, as JSON-ready facts."""

    def close(self) -> None:
        """Free memory and connections. Closing twice is fine; so is using it again."""


@dataclass(frozen=True)
class _StoreKind:
    module: str
    name: str
    place: str | None = None
    """The parameter for the place of the store, if it has one."""


_KINDS: Mapping[str, _StoreKind] = {
    "memory": _StoreKind("rerank_plugins.wrappers.stores.memory", "MemoryStore"),
    "sqlite": _StoreKind("rerank_plugins.wrappers.stores.sqlite", "SQLiteStore", "path"),
    "redis": _StoreKind("rerank_plugins.wrappers.stores.redis", "RedisStore", "url"),
    "rediss": _StoreKind("rerank_plugins.wrappers.stores.redis", "RedisStore", "url"),
}


_FILES = frozenset({"db", "disk", "diskcache", "file", "filesystem", "local", "sqlite3"})
"""What people call a store in a file."""


def open_store(spec: str) -> Store:
    """Build the store that a spec describes; opens no file and no connection.

    Args:
        spec: `"memory"`, `"memory?entries=100000"`, `"sqlite:PATH"`,
            `"redis://localhost:6379/0"` or `"rediss://…"` (TLS); the options after `?` are the
            keywords of the store's constructor.

    Raises:
        ConfigError: the spec is malformed, or names an unknown kind or option.
        MissingDependencyError: the kind needs an extra that is not installed.
    """
    head, _, options = spec.strip().partition("?")
    name, _, rest = head.partition(":")
    if name not in _KINDS:
        if name.lower() in _FILES or Path(name).suffix:
            raise ConfigError(f"{name!r} is no kind of store; for a file write: sqlite:PATH")
        raise ConfigError(unknown("kind of store", name, _KINDS))
    kind = _KINDS[name]
    place: dict[str, object] = {}
    if kind.place is None and rest:
        raise ConfigError(f"a {name!r} store is nowhere else; write: {name}")
    if kind.place == "path":
        place = {"path": unquote(rest)}
    elif kind.place == "url":
        place = {"url": head}
    constructor = getattr(importlib.import_module(kind.module), kind.name)
    settings = with_options({}, options)
    store: Store = constructor(
        **place, **checked_options(constructor, settings, what=f"store {name!r}", fixed=place)
    )
    return store
