"""Finds out which server answers at a URL, and what it can do: by a few GETs, without scoring."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias, TypeGuard
from urllib.parse import quote, urlsplit

from rerank_plugins._internal.secret import Secret
from rerank_plugins.backends.http.credentials import Key, read_key
from rerank_plugins.backends.http.dialects import DIALECTS
from rerank_plugins.backends.http.errors import status_error, via_proxy
from rerank_plugins.backends.http.reading import parse_json
from rerank_plugins.backends.http.responses import HTTPRequest
from rerank_plugins.backends.http.transport import Transport
from rerank_plugins.errors import BackendError, BackendRejected

__all__ = ["DiscoveredServer", "UnknownServer", "list_models", "probe"]

_RERANK_PATH = re.compile(r"(/v\d+)?/(rerank|reranks|reranking|ranking)")
_RERANK_NAME = re.compile(r"(/v[12])?/(rerank|reranks|reranking|ranking)$")
"""The end of a rerank URL; other versions stay in a spec, since ours would replace them."""
_OWN = "rerank-plugins"
_OWN_REALM = 'realm="rerank"'
_UNAUTHORIZED = frozenset({401, 403})
_XINFERENCE_VERSION = "/v1/cluster/version"
"""Only administrators may read it; a key that may score is refused."""
_OTHER_MODELS = ("classifier", "embedding")
"""What TEI calls the models that don't rerank."""
_MAX_TEXT = 200
_MAX_NUMBER = 2**31
_NOT_ITS_OWN = frozenset({407, 429})
"""Statuses that say nothing about the server: a proxy's, and a lock-out."""
_OK = 200


class UnknownServer(BackendRejected):
    """Something answers, but no server of a known kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveredServer:
    """What a server reports about itself."""

    dialect: str
    """The kind of server, as in a spec."""
    base_url: str
    """The URL to use in a spec."""
    models: tuple[str, ...] = ()
    """The rerank models it serves, as far as it lists them."""
    version: str | None = None
    """The server's own version."""
    max_documents: int | None = None
    """Maximum documents in one request, where the server reports it; ours may split further."""
    max_length: int | None = None
    """Maximum tokens of a query and a document, where the server reports it."""
    software: str | None = None
    """What serves, where that is not the kind: ours, which speaks the protocols of others."""
    authorized: bool = True
    """False if it refused to list its models: the key is missing, wrong, or lacks the right."""

    @property
    def spec(self) -> str:
        """A spec string for its first model."""
        model = f"?model={quote(self.models[0], safe='/:')}" if self.models else ""
        return f"{self.dialect}+{self.base_url}{model}"

    @property
    def summary(self) -> str:
        """What it is and where, in one line."""
        words = f"{self.software or self.dialect} {self.version or ''} at {self.base_url}"
        if self.software:
            words += f", asked as {self.dialect}"
        if not self.authorized:
            variables = " or ".join(DIALECTS[self.dialect].key_variables)
            words += f", which does not list its models without a valid key: set {variables}"
        return " ".join(words.split())


class _Page(NamedTuple):
    """The response to a GET."""

    status: int
    headers: Mapping[str, str]
    body: Any
    """The parsed JSON; None if the response was not JSON."""
    empty: bool

    def field(self, name: str) -> Any:
        """Return a field of the body; None if there is no such field."""
        return self.body.get(name) if isinstance(self.body, dict) else None

    def text(self, name: str) -> str | None:
        """Return a field that is a name or a version; None if it is anything else."""
        value = self.field(name)
        return value if _is_text(value) else None


_Get: TypeAlias = Callable[[str], _Page]


def probe(
    base_url: str,
    *,
    api_key: str | Secret | None = None,
    timeout: float = 5.0,
    verify: bool | str = True,
) -> DiscoveredServer:
    """Find out which kind of rerank server answers at `base_url`.

    Sends GETs only, so nothing is scored or billed. Vendors' services are recognised by their host
    name, without a request.

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
        UnknownServer: something answers, but no server of a known kind.
        BackendRejected: the server does not rerank.
    """
    secret = api_key if isinstance(api_key, Secret) else Secret(api_key or "")
    api_key = None  # no frame shows it any more
    prefix, secret = read_key(secret)
    key = Key(secret, "wait, or ask its operator", prefix=prefix)
    url = DIALECTS["infinity"].rerank_url(base_url)
    base = _RERANK_PATH.split(url)[0]
    root = re.sub(r"/v\d+$", "", base)
    if hosted := _hosted(root):
        return hosted
    deadline = time.monotonic() + timeout
    encrypted = root.startswith("https:")
    transport = Transport(connect_timeout=timeout, verify=verify if encrypted else None)
    refused: list[str] = []
    via: list[str] = []

    def get(path: str) -> _Page:
        headers: dict[str, str | Secret] = {"Accept": "application/json"}
        if key.value:
            headers["Authorization"] = key.header
        response = transport.send(HTTPRequest("GET", root + path, headers), deadline)
        if response.status in _NOT_ITS_OWN:
            raise status_error(response, where=root, key=key)
        via.append(via_proxy(response))
        if response.status in _UNAUTHORIZED and path != _XINFERENCE_VERSION:
            refused.append(path)
        try:
            body = parse_json(response) if response.status == _OK else None
        except BackendError:
            body = None
        return _Page(response.status, response.headers, body, not response.content)

    try:
        for recognise in (_tei, _model_list, _nim, _open_pages):
            if info := recognise(root, get):
                return replace(info, authorized=not refused)
        ollama = get("/api/version").text("version")
    finally:
        transport.close()
    if version := ollama:
        raise UnknownServer(
            f"{root} is Ollama {version}, which has no rerank route; have a model judge by its "
            f"words: ollama+{root}?model=NAME&template=qwen3-reranker for Qwen3's rerankers, or "
            f"ollama+{root}?model=NAME for a chat model"
        )
    given = _RERANK_NAME.split(url)[0]
    raise UnknownServer(
        f"{root} answers{via[-1]}, but like no known rerank server; name its kind in a spec, "
        f"such as cohere+{given}?model=NAME for a proxy with Cohere's protocol. Kinds: "
        f"{', '.join(DIALECTS)}"
    )


def list_models(
    base_url: str, *, key: Key, timeout: float = 5.0, verify: bool | str = True
) -> tuple[str, ...]:
    """Return the models that a server with OpenAI's protocol lists; none if it has no such list.

    Args:
        base_url: the server's address, with or without `/v1`.
        key: the key that is sent.
        timeout: seconds for it.
        verify: whether to check the server's certificate, or the CA file or folder to trust.

    Raises:
        BackendUnavailable: nothing answers there.
        AuthenticationError: the key is missing or wrong.
    """
    root = re.sub(r"/v\d+$", "", base_url.rstrip("/"))
    headers: dict[str, str | Secret] = {"Accept": "application/json"}
    if key.value:
        headers["Authorization"] = key.header
    encrypted = root.startswith("https:")
    transport = Transport(connect_timeout=timeout, verify=verify if encrypted else None)
    try:
        request = HTTPRequest("GET", f"{root}/v1/models", headers)
        response = transport.send(request, time.monotonic() + timeout)
    finally:
        transport.close()
    if response.status in _UNAUTHORIZED | _NOT_ITS_OWN:
        raise status_error(response, where=root, key=key)
    try:
        body = parse_json(response) if response.status == _OK else None
    except BackendError:
        return ()
    data = body.get("data") if isinstance(body, dict) else None
    return _names(data, "id") if isinstance(data, list) else ()


def _hosted(root: str) -> DiscoveredServer | None:
    host = urlsplit(root).hostname
    for name, dialect in DIALECTS.items():
        if dialect.base_url and urlsplit(dialect.base_url).hostname == host:
            limit = dialect.max_documents
            return DiscoveredServer(dialect=name, base_url=dialect.base_url, max_documents=limit)
    return None


def _tei(root: str, get: _Get) -> DiscoveredServer | None:
    info = get("/info")
    if info.status in _UNAUTHORIZED and _OWN_REALM in info.headers.get("www-authenticate", ""):
        return replace(_info("rerank", root, []), software=_OWN)
    kind = info.field("model_type")
    if not isinstance(kind, dict):
        return None
    if "reranker" not in kind:
        other = next((name for name in _OTHER_MODELS if name in kind), "something else")
        raise BackendRejected(
            f"the TEI server at {root} serves {other}, not a reranker; start one with a sequence "
            "classification model"
        )
    is_own = isinstance(info.field("limits"), dict)
    return DiscoveredServer(
        dialect="rerank" if is_own else "tei",
        base_url=root,
        models=_names([info.body], "model_id"),
        version=info.text("version"),
        software=_OWN if is_own else None,
        max_documents=_number(info.field("max_client_batch_size")),
        max_length=_number(info.field("max_input_length")),
    )


def _model_list(root: str, get: _Get) -> DiscoveredServer | None:
    for prefix in ("/v1", ""):
        page = get(f"{prefix}/models")
        data = page.field("data")
        models = [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []
        owners = {str(model.get("owned_by")) for model in models}
        if "xinference" in owners:
            able = [model for model in models if model.get("model_type") == "rerank"]
            version = get(_XINFERENCE_VERSION).text("version")
            return _info("xinference", root, able, version=version)
        if "infinity" in owners:
            able = [model for model in models if _can_rerank(model)]
            return _info("infinity", root + prefix, able)
        if "vllm" in owners:
            length = models[0].get("max_model_len")
            version = get("/version").text("version")
            return _info("vllm", root, models, version=version, max_length=length)
        if "sglang" in owners:
            return _info("sglang", root, models, max_length=models[0].get("max_model_len"))
        if "llamacpp" in owners or page.headers.get("server") == "llama.cpp":
            return _info("llamacpp", root, models, version=get("/props").text("build_info"))
    return None


def _can_rerank(model: dict[str, Any]) -> bool:
    capabilities = model.get("capabilities")
    return isinstance(capabilities, list) and "rerank" in capabilities


def _nim(root: str, get: _Get) -> DiscoveredServer | None:
    if not isinstance(get("/v1/health/ready").body, dict):
        return None
    data = get("/v1/models").field("data")
    return _info("nim", root, data if isinstance(data, list) else [])


def _open_pages(root: str, get: _Get) -> DiscoveredServer | None:
    """Recognise servers that list no models without a key by the pages that need none."""
    if get("/v1/cluster/auth").field("auth") is not None:
        return _info("xinference", root, [])
    health = get("/health")
    if health.field("unix") is not None:
        return _info("infinity", root, [])
    if health.field("status") == "ok":
        return _info("llamacpp", root, [])
    if health.status == _OK and health.empty:
        if version := get("/version").text("version"):
            return _info("vllm", root, [], version=version)
        if get("/info").status in _UNAUTHORIZED:
            return _info("tei", root, [])
    return None


def _info(
    dialect: str,
    base_url: str,
    models: list[Any],
    *,
    version: str | None = None,
    max_length: object = None,
) -> DiscoveredServer:
    return DiscoveredServer(
        dialect=dialect,
        base_url=base_url,
        models=_names(models, "id"),
        version=version,
        max_documents=DIALECTS[dialect].max_documents,
        max_length=_number(max_length),
    )


def _names(models: list[Any], key: str) -> tuple[str, ...]:
    names = (model.get(key) for model in models if isinstance(model, dict))
    return tuple(name for name in names if _is_text(name))


def _is_text(value: object) -> TypeGuard[str]:
    """Whether a value can be a name or a version that is shown, and stand in a spec."""
    return isinstance(value, str) and 0 < len(value) <= _MAX_TEXT and value.isprintable()


def _number(value: object) -> int | None:
    """Return a limit of documents or tokens; None if it is none."""
    return value if type(value) is int and 0 < value <= _MAX_NUMBER else None
