"""From a spec (a string, a mapping, a TOML file, the environment) to a backend."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

from rerank_plugins._internal.options import checked_options, unknown, with_options
from rerank_plugins._internal.toml import read_toml
from rerank_plugins.backend import Backend
from rerank_plugins.errors import ConfigError

__all__ = ["ENVIRONMENT_VARIABLE", "BackendSpec", "load_backend"]

ENVIRONMENT_VARIABLE = "RERANK_BACKEND"
"""Where `load_backend()` looks when it is given nothing."""

BackendSpec: TypeAlias = Backend | str | os.PathLike[str] | Mapping[str, object] | None
"""What `load_backend()` takes."""


@dataclass(frozen=True)
class _Kind:
    """Where a kind of backend is defined, and the keywords that the kind itself sets."""

    module: str
    name: str
    fixed: Mapping[str, object] = field(default_factory=dict)


def _http(dialect: str) -> _Kind:
    return _Kind("rerank_plugins.backends.http", "HTTPBackend", {"dialect": dialect})


_KINDS: Mapping[str, _Kind] = {
    "cohere": _http("cohere"),
    "dashscope": _http("dashscope"),
    "embedded": _Kind("rerank_plugins.backends.embedded", "EmbeddedBackend"),
    "infinity": _http("infinity"),
    "jina": _http("jina"),
    "llamacpp": _http("llamacpp"),
    "local": _Kind("rerank_plugins.backends.local", "LocalBackend"),
    "nim": _http("nim"),
    "siliconflow": _http("siliconflow"),
    "tei": _http("tei"),
    "vllm": _http("vllm"),
    "voyage": _http("voyage"),
    "xinference": _http("xinference"),
}
_WRAPPERS: Mapping[str, _Kind] = {  # innermost first
    "retry": _Kind("rerank_plugins.wrappers.retry", "RetryingBackend"),
    "breaker": _Kind("rerank_plugins.wrappers.breaker", "CircuitBreakingBackend"),
    "cache": _Kind("rerank_plugins.wrappers.cache", "CachedBackend"),
}
_FALLBACK = _Kind("rerank_plugins.wrappers.fallback", "FallbackBackend")
_INSTRUMENT = _Kind("rerank_plugins.wrappers.instrument", "InstrumentedBackend")
_OF_SERVERS = frozenset({"retry", "breaker"})
"""The wrappers that only remote backends get."""

_TABLES = ("backend", *_WRAPPERS, "fallback", "instrument", "server")

_REMOTE = re.compile(r"(?P<kind>[^:/?+]+)\+(?P<url>(?i:https?)://.*)", re.DOTALL)
_URLS = re.compile(r",(?=https?://)")
_NAMED = re.compile(r"(?P<kind>[^:/?+]+)(?::(?P<model>[^?]*))?(?:\?(?P<options>.*))?", re.DOTALL)


def load_backend(spec: BackendSpec = None) -> Backend:
    """Build the backend that a spec describes. Loads no model and opens no connection.

    Args:
        spec: one of

            - a string: `"local:BAAI/bge-reranker-v2-m3?device=cuda:0"`,
              `"xinference+http://gpu:9997?model=bge-reranker-large"`, `"cohere:rerank-v3.5"`,
              `"tei+http://one:8080,http://two:8080"` for several servers of one model,
              `"embedded"`, or the path of a `.toml` file;
            - a mapping: `{"kind": "local", "model": "…"}`, or the content of such a file;
            - a path: a TOML file with a `[backend]` table;
            - a `Backend`: returned as it is;
            - None: what the environment variable `RERANK_BACKEND` says, else `"embedded"`.

    Raises:
        ConfigError: the spec is malformed, or names an unknown kind or option.
        MissingDependencyError: the kind needs an extra that is not installed.
    """
    if isinstance(spec, Backend):
        return spec
    if spec is None:
        return _from_environment()
    if isinstance(spec, str):
        spec = spec.strip()
        if not spec.endswith(".toml"):
            return _build(_parsed(spec), where="in the spec")
    if isinstance(spec, str | os.PathLike):
        return _from_tables(read_toml(spec), where=f"in {str(spec)!r}")
    if isinstance(spec, Mapping):
        if "kind" in spec:
            return _build(spec, where="in the mapping")
        return _from_tables(spec, where="in the mapping")
    raise ConfigError(
        "a backend spec must be a string, a mapping, a path to a TOML file, a `Backend` or None, "
        f"not `{type(spec).__name__}`"
    )


def _from_environment() -> Backend:
    try:
        return load_backend(os.environ.get(ENVIRONMENT_VARIABLE, "").strip() or "embedded")
    except ConfigError as exc:  # nobody would guess where this spec came from
        raise ConfigError(f"{exc} (from the environment variable {ENVIRONMENT_VARIABLE})") from exc


def _from_tables(tables: Mapping[str, object], *, where: str) -> Backend:
    _check_options_are_in_a_table(tables, where=where)
    for name in tables:
        if name not in _TABLES:
            raise ConfigError(unknown("table", str(name), _TABLES, f" {where}"))
    first, others = tables.get("backend"), tables.get("fallback", [])
    if not isinstance(first, Mapping):
        raise ConfigError(f'no table `backend` {where}; write: [backend] kind = "embedded"')
    if not isinstance(others, list | tuple) or not all(isinstance(o, Mapping) for o in others):
        raise ConfigError(f"`fallback` {where} must be a list of tables; write: [[fallback]]")
    entries = [("backend", first), *(("fallback", other) for other in others)]
    chosen = [
        _wrapped(_build(options, where=where, table=table), tables, remote=_is_remote(options))
        for table, options in entries
    ]
    idle = _OF_SERVERS & {*tables}
    if idle and not any(_is_remote(options) for _, options in entries):
        raise ConfigError(f"no server is asked {where}, so leave out: {', '.join(sorted(idle))}")
    chain: Backend = _class(_FALLBACK)(chosen) if others else chosen[0]
    return _with_table(chain, _INSTRUMENT, "instrument", tables)


def _check_options_are_in_a_table(tables: Mapping[str, object], *, where: str) -> None:
    stray = [
        f"`{name}`"
        for name, value in tables.items()
        if name not in _TABLES and not isinstance(value, Mapping | list | tuple)
    ]
    if stray and not {"backend", "kind"} & {*tables}:
        raise ConfigError(f"`kind` is missing {where}; add one of: {', '.join(_KINDS)}")
    if stray:
        raise ConfigError(f"put these {where} under [backend]: {', '.join(stray)}")


def _is_remote(options: Mapping[str, object]) -> bool:
    return bool(_KINDS[str(options["kind"])].fixed)


def _wrapped(backend: Backend, tables: Mapping[str, object], *, remote: bool) -> Backend:
    """Put the wrappers that `tables` name around a backend."""
    for name, kind in _WRAPPERS.items():
        if remote or name not in _OF_SERVERS:
            backend = _with_table(backend, kind, name, tables)
    return backend


def _with_table(backend: Backend, kind: _Kind, name: str, tables: Mapping[str, object]) -> Backend:
    """Put the wrapper of one table around a backend, if there is that table."""
    options = tables.get(name)
    if options is None:
        return backend
    if not isinstance(options, Mapping):
        raise ConfigError(f"`{name}` must be a table, not {options!r}; write: [{name}]")
    wrapper = _class(kind)
    given = {str(option): value for option, value in options.items()}
    checked = checked_options(wrapper, given, what=f"table {name!r}", fixed=["wrapped"])
    wrapped: Backend = wrapper(backend, **checked)
    return wrapped


def _parsed(spec: str) -> dict[str, object]:
    """Turn a spec string into the mapping that says the same."""
    if not spec:
        raise ConfigError("the spec is empty; for the model in this package write: embedded")
    if remote := _REMOTE.fullmatch(spec):
        try:
            url = urlsplit(remote["url"])
        except ValueError as exc:  # an IPv6 address without its bracket
            raise ConfigError(f"the URL in the spec is malformed: {exc}") from exc
        if remote["kind"] in _KINDS and not _KINDS[remote["kind"]].fixed:
            raise ConfigError(f"kind {remote['kind']!r} takes no URL; write {remote['kind']}:MODEL")
        *others, last = _URLS.split(url._replace(query="").geturl())
        where = {"endpoints": [*others, last]} if others else {"base_url": last}
        return with_options({"kind": remote["kind"], **where}, url.query)
    named = _NAMED.fullmatch(spec)
    if named is None or named["kind"] not in _KINDS:
        raise ConfigError(_hint(spec))
    if _KINDS[named["kind"]].fixed and (named["model"] or "").startswith("//"):
        host = named["model"].rpartition("@")[2].lstrip("/")
        raise ConfigError(f"a server is written KIND+URL; write {named['kind']}+http://{host}")
    model = {"model": unquote(named["model"])} if named["model"] else {}
    return with_options({"kind": named["kind"], **model}, named["options"] or "")


def _hint(spec: str) -> str:
    """Say what is wrong with a spec that names no known kind, without repeating its query."""
    shown = spec.partition("?")[0]
    if "://" in shown:
        shown = shown.rpartition("@")[2]
        return (
            f"the spec for {shown!r} does not say which server that is; put its kind before the "
            f"URL, as in xinference+http://host:9997?model=UID. Kinds: {', '.join(_KINDS)}"
        )
    kind, plus, host = shown.partition("+")
    if plus and kind in _KINDS and _KINDS[kind].fixed:
        return f"http:// is missing; write {kind}+http://{host.rpartition('@')[2]}"
    kind, colon, model = shown.partition(":")
    is_path = "/" in kind or len(kind) == 1 or Path(shown).exists()  # of one letter is a drive
    if is_path or (not colon and "/" in shown):
        return f"{shown!r} names no kind of backend; for a local model write: local:{shown}"
    hint = f"; for a local model write: local:{model}" if "/" in model else ""
    return unknown("kind of backend", kind, _KINDS) + hint


def _build(options: Mapping[str, object], *, where: str, table: str = "backend") -> Backend:
    given = {str(name): value for name, value in options.items() if name != "kind"}
    if "kind" not in options:
        raise ConfigError(
            f"the table `{table}` {where} names no `kind`; valid: {', '.join(_KINDS)}"
        )
    name = options["kind"]
    if not isinstance(name, str) or name not in _KINDS:
        raise ConfigError(unknown("kind of backend", str(name), _KINDS))
    kind = _KINDS[name]
    constructor = _class(kind)
    what = f"kind {name!r}"
    backend: Backend = constructor(
        **kind.fixed, **checked_options(constructor, given, what=what, fixed=kind.fixed)
    )
    return backend


def _class(kind: _Kind) -> type[Any]:
    found: type[Any] = getattr(importlib.import_module(kind.module), kind.name)
    return found
