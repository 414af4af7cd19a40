"""The tables of a configuration file: which wrappers they add, in which order, around what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rerank_plugins._internal.lazy_class import LazyClass
from rerank_plugins.backend import Backend
from rerank_plugins.errors import ConfigError

__all__ = ["WRAPPERS", "applies", "tables_around", "tables_of", "wrappers_of_file"]

WRAPPERS: Mapping[str, LazyClass] = {
    "retry": LazyClass("rerank_plugins.wrappers.retry", "RetryingBackend"),
    "breaker": LazyClass("rerank_plugins.wrappers.breaker", "CircuitBreakingBackend"),
    "cache": LazyClass("rerank_plugins.wrappers.cache", "CachedBackend"),
    "fallback": LazyClass("rerank_plugins.wrappers.fallback", "FallbackBackend"),
    "instrument": LazyClass("rerank_plugins.wrappers.instrument", "InstrumentedBackend"),
}
"""The wrapper that each table adds, innermost first: below `fallback` around each backend."""
_ORDER = (*WRAPPERS,)
_REMOTE_ONLY = frozenset({"retry", "breaker"})
"""The tables that a model on this machine does not need."""
_LOCAL_KINDS = frozenset({"embedded", "local"})


def applies(table: str, kind: object) -> bool:
    """Return whether a table adds its wrapper around a backend of this kind."""
    return table not in _REMOTE_ONLY or kind not in _LOCAL_KINDS


def tables_of(backend: Backend) -> dict[str, object]:
    """Return the tables of a configuration file for a backend.

    Raises:
        ConfigError: it can't be written as a spec.
    """
    spec = backend.to_spec()
    if not {"kind", "backend"} & {*spec}:
        raise ConfigError(f"`to_spec()` of {backend!r} names no `kind`: {spec!r}")
    return {"backend": spec} if "kind" in spec else spec


def wrappers_of_file(spec: Mapping[str, object], tables: Iterable[str]) -> set[str]:
    """Return those of `tables` that a file puts around the backend that a spec describes."""
    backend = spec["backend"]
    kind = backend["kind"] if isinstance(backend, Mapping) else None
    return {table for table in tables if applies(table, kind)}


def tables_around(table: str, tables: Iterable[str]) -> list[str]:
    """Return those of `tables` that a file does not put inside of `table`."""
    return [other for other in tables if _place(other) >= _place(table)]


def _place(table: str) -> int:
    return _ORDER.index(table) if table in _ORDER else -1
