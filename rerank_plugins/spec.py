"""From a spec (a string, a mapping, a TOML file, the environment) to a backend."""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from rerank_plugins._internal.file_urls import path_of_file_url
from rerank_plugins._internal.lazy_class import LazyClass
from rerank_plugins._internal.options import checked_options, unknown, with_options
from rerank_plugins._internal.toml import read_toml
from rerank_plugins.backend import Backend
from rerank_plugins.backends.model_owners import with_owner
from rerank_plugins.errors import ConfigError
from rerank_plugins.wrappers._specs import CHAINS, WRAPPERS, applies

__all__ = ["ENVIRONMENT_VARIABLE", "BackendSpec", "load_backend"]

ENVIRONMENT_VARIABLE = "RERANK_BACKEND"
"""Where `load_backend()` looks when it is given nothing."""

BackendSpec: TypeAlias = Backend | str | os.PathLike[str] | Mapping[str, object] | None
"""What `load_backend()` takes."""


_LOCAL_KINDS: Mapping[str, LazyClass] = {
    "embedded": LazyClass("rerank_plugins.backends.embedded", "EmbeddedBackend"),
    "local": LazyClass("rerank_plugins.backends.local", "LocalBackend"),
}
_HTTP = LazyClass("rerank_plugins.backends.http", "HTTPBackend")
_OTHER_REMOTE_KINDS: Mapping[str, LazyClass] = {
    "bedrock": LazyClass("rerank_plugins.backends.bedrock", "BedrockBackend"),
}
_CHAT = LazyClass("rerank_plugins.backends.chat", "ChatBackend")
_CALIBRATED = LazyClass("rerank_plugins.wrappers.calibrated", "CalibratedBackend")
_CHAT_KINDS = ("ollama", "openai")
_FUSION = "fusion"
"""The table with the options of the ensemble, whose own tables are its backends."""
_CALIBRATION = "calibration"
"""The key of a backend with its fitted curve, also a table of a file with one backend."""
_TABLES = ("backend", _CALIBRATION, *WRAPPERS, _FUSION, "server")
_PER_BACKEND = (*itertools.takewhile(lambda table: table not in CHAINS, WRAPPERS),)
"""The tables that add a wrapper around each backend of a chain, innermost first."""

_URL_SPEC = re.compile(r"(?P<kind>[^:/?+]+)\+(?P<url>(?i:https?)://.*)", re.DOTALL)
_URL_SEPARATOR = re.compile(r",(?=https?://)")
_MODEL_SPEC = re.compile(
    r"(?P<kind>[^:/?+]+)(?::(?P<model>[^?]*))?(?:\?(?P<options>.*))?", re.DOTALL
)
_ADDRESS = re.compile(r"(?:(?i:https?):)?//(?P<host>[^&]*)", re.DOTALL)
"""A server's address where a model should stand."""
_PORT = re.compile(r"[\w.-]+:\d{2,5}(/.*)?", re.DOTALL)
"""A host and its port; some models are named like this, too."""
_OPTION_IN_MODEL = re.compile(r"&(?=[a-z_]+=)")
_OTHER_FILES = frozenset({".cfg", ".conf", ".ini", ".json", ".yaml", ".yml"})
_OWN_CLASS = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<name>[A-Za-z_]\w*)")


def load_backend(spec: BackendSpec = None) -> Backend:
    """Build the backend that a spec describes. Loads no model and opens no connection.

    Args:
        spec: one of

            - a string: `"local:BAAI/bge-reranker-v2-m3?device=cuda:0"`,
              `"xinference+http://gpu:9997?model=bge-reranker-large"`, `"cohere:rerank-v4.0-pro"`,
              `"tei+http://one:8080,http://two:8080"` for several servers of one model,
              `"embedded"`, or the path of a `.toml` file;
            - a mapping: `{"kind": "local", "model": "…"}`, or the content of such a file; the
              kind `"package.module:Class"` is a backend of yours, the rest its keywords;
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
        _refuse_file_url(spec)
        if not _is_toml_file(spec):
            return _build(_parse(spec), where="in the spec")
    if isinstance(spec, str | os.PathLike):
        if os.path.isdir(spec):  # noqa: PTH112 - it takes both
            raise ConfigError(
                f"{os.fspath(spec)!r} is a folder, not a TOML file; for the model in it write "
                f"local:{os.fspath(spec)}"
            )
        return _from_tables(read_toml(spec), where=f"in {os.fspath(spec)!r}")
    if isinstance(spec, Mapping):
        if "kind" in spec:
            return _build(spec, where="in the mapping")
        return _from_tables(spec, where="in the mapping")
    raise ConfigError(
        "a backend spec must be a string, a mapping, a path to a TOML file, a `Backend` or None, "
        f"not `{type(spec).__name__}`"
    )


@functools.cache
def _kinds() -> tuple[str, ...]:
    """Return the kinds by name; a remote one for each dialect and each chat server."""
    from rerank_plugins.backends.http.dialects import DIALECTS  # noqa: PLC0415 - not at import

    return tuple(sorted({*_LOCAL_KINDS, *_OTHER_REMOTE_KINDS, *_CHAT_KINDS, *DIALECTS}))


def _is_remote(kind: object) -> bool:
    return kind in _kinds() and kind not in _LOCAL_KINDS


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
    first, chain = tables.get("backend"), _chain_of(tables, where=where)
    others = tables.get(chain, [])
    if not isinstance(first, Mapping):
        raise ConfigError(
            f"no table `backend` {where}; add the line [backend], and below it the line "
            'kind = "embedded" or that of another backend'
        )
    if not isinstance(others, list | tuple) or not all(isinstance(o, Mapping) for o in others):
        raise ConfigError(f"`{chain}` {where} must be a list of tables; write: [[{chain}]]")
    first = _with_calibration(first, tables, alone=not others, where=where)
    entries = [("backend", first), *((chain, other) for other in others)]
    backends = [
        _wrap(_build(options, where=where, table=table), tables, kind=options["kind"])
        for table, options in entries
    ]
    for name in _PER_BACKEND:
        if name in tables and not any(applies(name, options["kind"]) for _, options in entries):
            raise ConfigError(
                f"`[{name}]` applies to remote backends only, and there is none {where}; remove it"
            )
    whole = _joined(backends, chain, tables) if others else backends[0]
    return _add_wrapper(whole, "instrument", tables)


def _with_calibration(
    backend: Mapping[str, object], tables: Mapping[str, object], *, alone: bool, where: str
) -> Mapping[str, object]:
    """Return the options of the first backend, with the table `[calibration]` among them."""
    if _CALIBRATION not in tables:
        return backend
    if not alone:
        raise ConfigError(
            f"`[calibration]` {where} holds for one model, and there are several; put it into its "
            'backend: calibration = "FILE", or a table such as [backend.calibration]'
        )
    if _CALIBRATION in backend:
        raise ConfigError(f"`calibration` stands twice {where}; keep one of them")
    return {**backend, _CALIBRATION: tables[_CALIBRATION]}


def _chain_of(tables: Mapping[str, object], *, where: str) -> str:
    """Return which list of tables puts further backends beside the first.

    Raises:
        ConfigError: there are both, or options of an ensemble without one.
    """
    present = [name for name in CHAINS if tables.get(name)]
    if len(present) > 1:
        raise ConfigError(
            f"`[[fallback]]` and `[[ensemble]]` {where} exclude each other: the backends of a file "
            "stand in for each other, or score together; keep one of them"
        )
    chain = present[0] if present else "fallback"
    if _FUSION in tables and chain != "ensemble":
        raise ConfigError(
            f"`[{_FUSION}]` {where} needs `[[ensemble]]`, the backends to fuse; add one, or "
            "remove the table"
        )
    return chain


def _joined(backends: list[Backend], chain: str, tables: Mapping[str, object]) -> Backend:
    """Return the backends as one, with the options that their table gives."""
    constructor = WRAPPERS[chain].load()
    table = tables.get(_FUSION, {})
    if not isinstance(table, Mapping):
        raise ConfigError(f"`{_FUSION}` must be a table, not {table!r}; write: [{_FUSION}]")
    options = {str(name): value for name, value in table.items()}
    fixed = ["backends"]
    checked = checked_options(constructor, options, what=f"table {_FUSION!r}", fixed=fixed)
    joined: Backend = constructor(backends, **checked)
    return joined


def _check_options_are_in_a_table(tables: Mapping[str, object], *, where: str) -> None:
    stray = [
        f"`{name}`"
        for name, value in tables.items()
        if name not in _TABLES and not isinstance(value, Mapping | list | tuple)
    ]
    if stray and not {"backend", "kind"} & {*tables}:
        raise ConfigError(f"`kind` is missing {where}; add one of: {', '.join(_kinds())}")
    if stray:
        raise ConfigError(f"put these {where} under [backend]: {', '.join(stray)}")


def _wrap(backend: Backend, tables: Mapping[str, object], *, kind: object) -> Backend:
    """Put the wrappers that `tables` name around a backend."""
    for name in _PER_BACKEND:
        if applies(name, kind):
            backend = _add_wrapper(backend, name, tables)
    return backend


def _add_wrapper(backend: Backend, name: str, tables: Mapping[str, object]) -> Backend:
    """Put the wrapper of one table around a backend, if there is that table."""
    table = tables.get(name)
    if table is None:
        return backend
    if not isinstance(table, Mapping):
        raise ConfigError(f"`{name}` must be a table, not {table!r}; write: [{name}]")
    constructor = WRAPPERS[name].load()
    options = {str(option): value for option, value in table.items()}
    checked = checked_options(constructor, options, what=f"table {name!r}", fixed=["wrapped"])
    wrapped: Backend = constructor(backend, **checked)
    return wrapped


def _is_toml_file(spec: str) -> bool:
    """Whether a string is the path of a file, and no spec whose last option is one."""
    ends = spec.lower().endswith(".toml")
    return ends and ("?" not in spec or os.path.exists(spec))  # noqa: PTH110  # `Path` refuses NUL


def _refuse_file_url(spec: str) -> None:
    """Refuse a `file:` URL: a folder is written as its path, after `local:` if it holds a model."""
    url = re.sub(r"^local[:+]", "", spec).partition("?")[0]
    path = path_of_file_url(url)
    if path is None:
        return
    if path.lower().endswith(".toml"):
        raise ConfigError(f"{url!r} is a file on this machine; write its path: {path}")
    raise ConfigError(f"{url!r} is a folder on this machine, and no server; write local:{path}")


def _parse(spec: str) -> dict[str, object]:
    """Return the mapping for a spec string."""
    if not spec:
        raise ConfigError("the spec is empty; for the model in this package write: embedded")
    if by_url := _URL_SPEC.fullmatch(spec):
        kind = by_url["kind"]
        try:
            url = urlsplit(by_url["url"])
        except ValueError as exc:  # an IPv6 address without its bracket
            raise ConfigError(f"the URL in the spec is malformed: {exc}") from exc
        if kind in _LOCAL_KINDS:
            raise ConfigError(f"kind {kind!r} takes no URL; write {kind}:MODEL")
        *others, last = _URL_SEPARATOR.split(url._replace(query="").geturl())
        address = {"endpoints": [*others, last]} if others else {"base_url": last}
        return with_options({"kind": kind, **address}, url.query)
    by_model = _MODEL_SPEC.fullmatch(spec)
    if by_model is None or by_model["kind"] not in _kinds():
        raise ConfigError(_hint(spec))
    kind = by_model["kind"]
    _check_model(kind, by_model["model"] or "")
    model = {"model": unquote(by_model["model"])} if by_model["model"] else {}
    return with_options({"kind": kind, **model}, by_model["options"] or "")


def _check_model(kind: str, model: str) -> None:
    """Refuse an address or an option that stands where the model should."""
    if _is_remote(kind) and (address := _address(kind, model)):
        raise ConfigError(f"a server is written KIND+URL; write {kind}+{address}")
    name, *options = _OPTION_IN_MODEL.split(model)
    if options:
        raise ConfigError(
            f"options follow a `?` and `&` separates them; write {kind}:{name}?{options[0]}"
            + ("&…" if options[1:] else "")
        )


def _address(kind: str, model: str) -> str | None:
    """Return the URL that a text in place of a model stands for, without a user's name."""
    if found := _ADDRESS.match(model):
        scheme = "https" if model.lower().startswith("https:") else "http"
        return f"{scheme}://{found['host'].rpartition('@')[2]}"
    from rerank_plugins.backends.chat.dialects import SERVERS  # noqa: PLC0415 - not at import
    from rerank_plugins.backends.http.dialects import DIALECTS  # noqa: PLC0415 - as above

    has_no_address = any(
        kind in kinds and kinds[kind].base_url is None for kinds in (DIALECTS, SERVERS)
    )
    return f"http://{model}" if has_no_address and _PORT.fullmatch(model) else None


def _hint(spec: str) -> str:
    """Return what is wrong with a spec of an unknown kind, without repeating its query."""
    shown = spec.partition("?")[0]
    if Path(shown).suffix.lower() in _OTHER_FILES:
        return f"{shown!r} is no TOML file; write the settings in one, as in rerank.toml"
    if "://" in shown:
        shown = shown.rpartition("@")[2]
        return (
            f"the spec for {shown!r} does not say which server that is; put its kind before the "
            f"URL, as in xinference+http://host:9997?model=UID. Kinds: {', '.join(_kinds())}"
        )
    kind, plus, host = shown.partition("+")
    if plus and _is_remote(kind):
        return f"http:// is missing; write {kind}+http://{host.rpartition('@')[2]}"
    kind, colon, model = shown.partition(":")
    if not colon and (known := with_owner(kind)):
        return (
            f"{shown!r} names no kind of backend; for the model on this machine write: "
            f"local:{known}; for a server's: xinference+http://HOST:9997?model={shown}"
        )
    if model.isdecimal() and _PORT.fullmatch(shown):
        return (
            f"{shown!r} does not say which server that is; put its kind before the URL, as in "
            f"xinference+http://{shown}?model=UID. Kinds: {', '.join(_kinds())}"
        )
    is_path = "/" in kind or len(kind) == 1 or Path(shown).exists()  # of one letter is a drive
    if is_path or (not colon and "/" in shown):
        return f"{shown!r} names no kind of backend; for a local model write: local:{shown}"
    hint = f"; for a local model write: local:{model}" if "/" in model else ""
    if _OWN_CLASS.fullmatch(shown) and model[:1].isupper():
        hint = f'; for a class of yours write in a file or a mapping: kind = "{shown}"'
    return unknown("kind of backend", kind, _kinds()) + hint


def _build(options: Mapping[str, object], *, where: str, table: str = "backend") -> Backend:
    if "kind" not in options:
        raise ConfigError(
            f"the table `{table}` {where} names no `kind`; valid: {', '.join(_kinds())}"
        )
    kind = options["kind"]
    if not isinstance(kind, str):
        raise ConfigError(f"`kind` in the table `{table}` {where} must be a string, not {kind!r}")
    keywords = {
        str(name): value for name, value in options.items() if name not in ("kind", _CALIBRATION)
    }
    fixed: dict[str, object] = {}
    if kind in _LOCAL_KINDS:
        constructor = _LOCAL_KINDS[kind].load()
    elif kind in _OTHER_REMOTE_KINDS:
        constructor = _OTHER_REMOTE_KINDS[kind].load()
    elif kind in _CHAT_KINDS:
        constructor, fixed = _CHAT.load(), {"server": kind}
    elif _is_remote(kind):
        constructor, fixed = _HTTP.load(), {"dialect": kind}
    elif own := _OWN_CLASS.fullmatch(kind):
        constructor = _own_class(own["module"], own["name"])
    else:
        raise ConfigError(
            unknown("kind of backend", kind, _kinds())
            + ', or a class of yours: kind = "package.module:Class"'
        )
    checked = checked_options(constructor, keywords, what=f"kind {kind!r}", fixed=fixed)
    backend: Backend = constructor(**fixed, **checked)
    calibration = options.get(_CALIBRATION)
    if calibration is not None:
        backend = _CALIBRATED.load()(backend, calibration=calibration)
    return backend


def _own_class(module: str, name: str) -> type[Backend]:
    """Import a user's backend.

    Raises:
        ConfigError: there is no such class, or it is no `Backend`.
    """
    try:
        loaded = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{module}.".startswith(f"{exc.name}."):
            raise  # the module is there, and lacks one of its own needs
        raise ConfigError(
            f"there is no module {module!r} to import the kind '{module}:{name}' from; check the "
            "spelling, and that its folder is on Python's path"
        ) from exc
    if loaded is None:
        raise ConfigError(f"the module {module!r} has no class {name!r}; check the spelling")
    if not isinstance(loaded, type) or not issubclass(loaded, Backend):
        raise ConfigError(f"'{module}:{name}' is not a subclass of `rerank_plugins.Backend`")
    if missing := sorted(getattr(loaded, "__abstractmethods__", ())):
        raise ConfigError(
            f"'{module}:{name}' can't be built: it does not implement {', '.join(missing)}"
        )
    return loaded
