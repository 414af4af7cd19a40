"""Which server answers at a URL, and what it can do: found by a few GETs, without scoring."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from rerank_plugins.backends.http.dialects import DIALECTS
from rerank_plugins.backends.http.errors import failure, parsed
from rerank_plugins.backends.http.responses import Request
from rerank_plugins.backends.http.transport import Transport
from rerank_plugins.errors import BackendError, BackendRejected

__all__ = ["ServerInfo", "UnknownServer", "probe"]

_RERANK_PATH = re.compile(r"(/v\d+)?/(rerank|reranks|reranking|ranking)")
_REFUSED = frozenset({401, 403})
_XINFERENCE_VERSION = "/v1/cluster/version"
"""Read by administrators alone; a key that may score is refused."""
_TOO_MANY = 429
_OK = 200


class UnknownServer(BackendRejected):
    """Something answers, but no server we know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What a server tells about itself."""

    dialect: str
    """The kind of server, as in a spec."""
    base_url: str
    """The URL to use in a spec."""
    models: tuple[str, ...] = ()
    """The rerank models it serves, as far as it lists them."""
    version: str | None = None
    """The server's own version."""
    max_documents: int | None = None
    """Most documents in one request, where the server says so; ours may split further."""
    max_length: int | None = None
    """Most tokens of a query and a document, where the server says so."""
    authorized: bool = True
    """False if it refused to list its models: the key is missing, wrong, or lacks the right."""

    @property
    def spec(self) -> str:
        """A spec string for its first model."""
        model = f"?model={quote(self.models[0], safe='/:')}" if self.models else ""
        return f"{self.dialect}+{self.base_url}{model}"


class _Seen(NamedTuple):
    """What a GET brought."""

    status: int
    headers: Mapping[str, str]
    body: Any
    """The parsed JSON; None if it was something else."""
    empty: bool

    def fact(self, name: str) -> Any:
        """Return a field of the body; None if there is no such field."""
        return self.body.get(name) if isinstance(self.body, dict) else None


_Get = Callable[[str], _Seen]


def probe(
    base_url: str, *, api_key: str | None = None, timeout: float = 5.0, verify: bool | str = True
) -> ServerInfo:
    """Find out which kind of rerank server answers at `base_url`.

    Sends GETs only, so that nothing is scored or billed. Vendors' services are known by their
    host name and are not asked.

    Args:
        base_url: the server's address; a gateway's prefix, `…/v1` and the whole rerank URL are
            understood.
        api_key: the key, if the server needs one.
        timeout: seconds for all of it.
        verify: whether to check the server's certificate, or the CA file or folder to trust.

    Raises:
        ConfigError: `base_url` is not an http(s) URL.
        BackendUnavailable: nothing answers there.
        AuthenticationError: this address has been locked out.
        UnknownServer: something answers, but no server we know.
        BackendRejected: the server does not rerank.
    """
    found = _RERANK_PATH.split(DIALECTS["infinity"].endpoint(base_url))[0]
    root = re.sub(r"/v\d+$", "", found)
    if hosted := _hosted(root):
        return hosted
    deadline = time.monotonic() + timeout
    encrypted = root.startswith("https:")
    transport = Transport(connect_timeout=timeout, verify=verify if encrypted else None)
    refused: list[str] = []

    def get(path: str) -> _Seen:
        headers = {"Accept": "application/json"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        reply = transport.send(Request("GET", root + path, headers), deadline)
        if reply.status == _TOO_MANY:
            source = "wait, or ask its operator"
            raise failure(reply, where=root, key=api_key or "", key_source=source, texts=[""])
        if reply.status in _REFUSED and path != _XINFERENCE_VERSION:
            refused.append(path)
        try:
            body = parsed(reply) if reply.status == _OK else None
        except BackendError:
            body = None
        return _Seen(reply.status, reply.headers, body, not reply.content)

    try:
        for look in (_tei, _listing, _nim, _traces):
            if info := look(root, get):
                return replace(info, authorized=not refused)
    finally:
        transport.close()
    raise UnknownServer(
        f"{root} answers, but like no rerank server we know; say which it is in a spec, such as "
        f"cohere+{root}?model=NAME for proxies that speak Cohere's protocol. Kinds: "
        f"{', '.join(DIALECTS)}"
    )


def _hosted(root: str) -> ServerInfo | None:
    host = urlsplit(root).hostname
    for name, dialect in DIALECTS.items():
        if dialect.base_url and urlsplit(dialect.base_url).hostname == host:
            limit = dialect.max_documents
            return ServerInfo(dialect=name, base_url=dialect.base_url, max_documents=limit)
    return None


def _tei(root: str, get: _Get) -> ServerInfo | None:
    info = get("/info")
    kind = info.fact("model_type")
    if not isinstance(kind, dict):
        return None
    if "reranker" not in kind:
        raise BackendRejected(
            f"the TEI server at {root} serves {', '.join(map(str, kind))}, not a reranker; start "
            "one with a sequence classification model"
        )
    return ServerInfo(
        dialect="tei",
        base_url=root,
        models=_names([info.body], "model_id"),
        version=info.fact("version"),
        max_documents=info.fact("max_client_batch_size"),
        max_length=info.fact("max_input_length"),
    )


def _listing(root: str, get: _Get) -> ServerInfo | None:
    for prefix in ("/v1", ""):
        seen = get(f"{prefix}/models")
        data = seen.fact("data")
        models = [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []
        owners = {model.get("owned_by") for model in models}
        if "xinference" in owners:
            able = [model for model in models if model.get("model_type") == "rerank"]
            version = get(_XINFERENCE_VERSION).fact("version")
            return _info("xinference", root, able, version=version)
        if "infinity" in owners:
            able = [model for model in models if "rerank" in model.get("capabilities", ())]
            return _info("infinity", root + prefix, able)
        if "vllm" in owners:
            length = models[0].get("max_model_len")
            version = get("/version").fact("version")
            return _info("vllm", root, models, version=version, max_length=length)
        if "llamacpp" in owners or seen.headers.get("server") == "llama.cpp":
            return _info("llamacpp", root, models, version=get("/props").fact("build_info"))
    return None


def _nim(root: str, get: _Get) -> ServerInfo | None:
    if not isinstance(get("/v1/health/ready").body, dict):
        return None
    data = get("/v1/models").fact("data")
    return _info("nim", root, data if isinstance(data, list) else [])


def _traces(root: str, get: _Get) -> ServerInfo | None:
    """Tell servers that keep their models from us by what they leave open."""
    if get("/v1/cluster/auth").fact("auth") is not None:
        return _info("xinference", root, [])
    health = get("/health")
    if health.fact("unix") is not None:
        return _info("infinity", root, [])
    if health.fact("status") == "ok":
        return _info("llamacpp", root, [])
    if health.status == _OK and health.empty:
        if version := get("/version").fact("version"):
            return _info("vllm", root, [], version=version)
        if get("/info").status in _REFUSED:
            return _info("tei", root, [])
    return None


def _info(
    dialect: str,
    base_url: str,
    models: list[Any],
    *,
    version: str | None = None,
    max_length: int | None = None,
) -> ServerInfo:
    return ServerInfo(
        dialect=dialect,
        base_url=base_url,
        models=_names(models, "id"),
        version=version,
        max_documents=DIALECTS[dialect].max_documents,
        max_length=max_length,
    )


def _names(models: list[Any], key: str) -> tuple[str, ...]:
    names = (model.get(key) for model in models if isinstance(model, dict))
    return tuple(name for name in names if isinstance(name, str))
