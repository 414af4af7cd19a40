"""The tables of a configuration file: which wrappers they add, in which order, around what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rerank_plugins._internal.lazy_class import LazyClass
from rerank_plugins.backend import Backend
from rerank_plugins.errors import ConfigError

__all__ = [
    "CHAINS",
    "WRAPPERS",
    "applies",
    "spec_of_chain",
    "tables_around",
    "tables_of",
    "wrappers_of_file",
]

WRAPPERS: Mapping[str, LazyClass] = {
    "retry": LazyClass("rerank_plugins.wrappers.retry", "RetryingBackend"),
    "breaker": LazyClass("rerank_plugins.wrappers.breaker", "CircuitBreakingBackend"),
    "long_documents": LazyClass("rerank_plugins.wrappers.long_documents", "LongDocumentsBackend"),
    "cache": LazyClass("rerank_plugins.wrappers.cache", "CachedBackend"),
    "fallback": LazyClass("rerank_plugins.wrappers.fallback", "FallbackBackend"),
    "ensemble": LazyClass("rerank_plugins.wrappers.ensemble", "EnsembleBackend"),
    "instrument": LazyClass("rerank_plugins.wrappers.instrument", "InstrumentedBackend"),
}
"""The wrapper that each table adds, innermost first: below `fallback` around each backend."""
CHAINS = ("fallback", "ensemble")
"""The lists of tables that put further backends beside the first; a file has one of them."""
_ORDER = (*WRAPPERS,)
_REMOTE_ONLY = frozenset({"retry", "breaker", "long_documents"})
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


def spec_of_chain(chain: Backend, table: str) -> dict[str, object]:
    """Return the tables of a configuration file for backends side by side.

    Args:
        chain: the backend that has them as its children.
        table: the list of tables that all but the first of them stand in.

    Raises:
        ConfigError: no file builds this: there is one backend, or another chain in it, or a
            backend that can't be written as a spec, or the backends have different wrappers.
    """
    if len(chain.children) == 1:
        raise ConfigError(f"{chain!r} can't be written as a spec: it has one backend only")
    written = [tables_of(child) for child in chain.children]
    tables = {name: options for own in written for name, options in own.items()}
    del tables["backend"]
    for own in written:
        expected = wrappers_of_file(own, tables)
        different = [
            name
            for name in tables
            if own.get(name) != (tables[name] if name in expected else None)
            or name in {*CHAINS, "fusion", "instrument"}
        ]
        if different:
            raise ConfigError(
                f"{chain!r} can't be written as a spec: `[{different[0]}]` of a file holds for "
                "the whole chain, but its backends differ there"
            )
    first, *others = (own["backend"] for own in written)
    return {"backend": first, **tables, table: others}


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
