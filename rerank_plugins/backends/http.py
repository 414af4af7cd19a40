"""`HTTPBackend`: documents scored by a rerank server or a vendor's service."""

from __future__ import annotations

import inspect
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit

from rerank_plugins import _context
from rerank_plugins._options import changed_options, unknown
from rerank_plugins._parallel import aside_by_side, side_by_side
from rerank_plugins.backend import Backend, Document, Scale, check_texts
from rerank_plugins.backends._incoming import Reply, Request
from rerank_plugins.backends._parts import split, to_json
from rerank_plugins.backends._replies import complaint, failure, parsed
from rerank_plugins.backends._scale import to_probability
from rerank_plugins.backends._transport import Transport
from rerank_plugins.backends.dialects import DIALECTS, decode
from rerank_plugins.errors import (
    AuthenticationError,
    BackendError,
    ConfigError,
    InvalidResponse,
    UnsupportedInputError,
)
from rerank_plugins.hooks import Split, Truncated, attempt, tell

__all__ = ["HTTPBackend"]

MAX_BODY = 1_000_000
"""Largest request in bytes, where it can be split: nginx refuses more than 1 MiB by default."""

_SCALES = ("probability", "logit", "unknown")
_TOLERANCE = 1e-6
_SUCCESS = range(200, 300)
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


class HTTPBackend(Backend):
    """Scores documents with a rerank server over HTTP; `load_backend()` builds it from a spec.

    A request that is too large for the server is split, and the parts are sent side by side:
    all of them succeed, or the call fails. Blank documents are sent as one space, because
    servers refuse an empty string or score it by different rules.

    Args:
        base_url: where the server is, such as `"http://gpu:9997"`; a path prefix, `…/v1` and
            the whole rerank URL are understood. None: the vendor's own address.
        dialect: the kind of server: `"xinference"`, `"tei"`, `"cohere"`, …
        model: the model's name (Xinference: its UID) as the server knows it.
        api_key: the key. Such a backend can be neither pickled nor written as a spec.
        api_key_env: the environment variable that holds the key, read at each request; its name
            is in capitals. Without both, the dialect's usual variable is read, such as
            `XINFERENCE_API_KEY`.
        timeout: seconds for a whole call, all its parts included; fewer if a wrapper around
            this backend has fewer left.
        connect_timeout: seconds to wait for a connection.
        scale: the scores wanted: probabilities from 0 to 1, or logits.
        server_scale: the scores that the server sends, if it does not keep to its dialect.
            Logits become probabilities by the sigmoid; `"unknown"` scores stay as they are.
        max_documents: most documents in one request, if the server's limit is not the usual.
        max_parallel: most requests of one call that are under way at the same time.
        listwise: the model scores documents in view of each other: never split them.
        instruction: what the model should look for; only where the dialect can send it.
        verify: whether to check the server's certificate, or the CA file or folder to trust.

    Raises:
        ConfigError: an option is out of range, missing, or not for this dialect.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        dialect: str,
        model: str | None = None,
        api_key: str | None = None,
        api_key_env: str | None = None,
        timeout: float = 10.0,
        connect_timeout: float = 2.0,
        scale: Literal["probability", "logit"] = "probability",
        server_scale: Literal["probability", "logit", "unknown"] | None = None,
        max_documents: int | None = None,
        max_parallel: int = 4,
        listwise: bool = False,
        instruction: str | None = None,
        verify: bool | str = True,
    ) -> None:
        if dialect not in DIALECTS:
            raise ConfigError(unknown("dialect", str(dialect), DIALECTS))
        protocol = DIALECTS[dialect]
        address = protocol.base_url if base_url is None else base_url
        if address is None:
            asked = f"?model={model}" if model else ""
            raise ConfigError(
                f"{dialect!r} needs `base_url`, the server's URL; in a spec string write "
                f"{dialect}+http://HOST:8000{asked}"
            )
        if protocol.needs_model and not model:
            raise ConfigError(f"{dialect!r} needs `model`: the model's name on the server")
        if api_key is not None and api_key_env is not None:
            raise ConfigError("give either `api_key` or `api_key_env`, not both")
        if api_key_env is not None and not _VARIABLE.fullmatch(api_key_env):
            raise ConfigError(  # without the value, which may be a key
                "`api_key_env` must be the name of an environment variable in capitals, such as "
                f"{protocol.key_variables[0]}, and never the key itself"
            )
        if instruction is not None and protocol.instruct is None:
            able = ", ".join(name for name, other in DIALECTS.items() if other.instruct)
            raise ConfigError(f"{dialect!r} can't send an `instruction`; these can: {able}")
        _check_scales(scale=scale, server_scale=server_scale)
        _check_positive(timeout=timeout, connect_timeout=connect_timeout)
        _check_counts(max_documents=max_documents, max_parallel=max_parallel)
        self._base_url = base_url
        self._dialect = dialect
        self._model = model
        self._api_key = api_key
        self._api_key_env = api_key_env
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._scale = scale
        self._server_scale = server_scale
        self._max_documents = max_documents
        self._max_parallel = max_parallel
        self._listwise = listwise
        self._instruction = instruction
        self._verify = verify
        self._protocol = protocol
        self._url = protocol.endpoint(address)
        self._where = f"{dialect} at {self._url}"
        self._endpoint = _host_and_port(self._url)
        vendor = protocol.base_url
        self._is_vendor = vendor is not None and self._url.startswith(f"{vendor}/")
        self._raw, self._sent, self.scale = _scales(dialect, scale, server_scale)
        self.cacheable = not listwise
        encrypted = self._url.startswith("https:")
        self._transport = Transport(
            connect_timeout=connect_timeout, verify=verify if encrypted else None
        )

    @property
    def endpoint(self) -> str:
        """The server's `host:port`."""
        return self._endpoint

    @property
    def name(self) -> str:
        made_by = {"model": self._model, "instruction": self._instruction}
        facts = {name: value for name, value in made_by.items() if value}
        facts |= {"server_scale": self._sent, "scale": self.scale}
        return f"{self._dialect}+{self._url}?{urlencode(facts, safe='/:')}"

    def score(self, query: str, documents: Sequence[Document]) -> list[float]:
        texts = check_texts(query, documents)
        return self._score(query, texts, self._end(), self._max_parallel) if texts else []

    def score_many(self, requests: Sequence[tuple[str, Sequence[Document]]]) -> list[list[float]]:
        """Score several requests side by side; `timeout` holds for each of them."""
        asked = [(query, check_texts(query, documents)) for query, documents in requests]
        return side_by_side(
            lambda one: self._score(*one, self._end(), 1) if one[1] else [],
            asked,
            self._max_parallel,
        )

    async def ascore(self, query: str, documents: Sequence[Document]) -> list[float]:
        texts = check_texts(query, documents)
        if not texts:
            return []
        deadline = self._end()
        scores = await aside_by_side(
            lambda part: self._aask(query, part, deadline),
            self._parts(query, texts),
            self._max_parallel,
        )
        return [score for part in scores for score in part]

    def _end(self) -> float:
        """Return when a call that starts now must be over, in seconds of `time.monotonic()`."""
        return min(time.monotonic() + self._timeout, _context.deadline())

    def _score(self, query: str, texts: list[str], deadline: float, parallel: int) -> list[float]:
        scores = side_by_side(
            lambda part: self._ask(query, part, deadline), self._parts(query, texts), parallel
        )
        return [score for part in scores for score in part]

    def _ask(self, query: str, texts: Sequence[str], deadline: float) -> list[float]:
        with attempt(self.endpoint, len(texts)) as tried:
            request = self._encode(query, texts, tried.headers)
            reply = self._transport.send(request, deadline)
            tried.status_code = reply.status
            return self._decode(reply, query, texts)

    async def _aask(self, query: str, texts: Sequence[str], deadline: float) -> list[float]:
        with attempt(self.endpoint, len(texts)) as tried:
            request = self._encode(query, texts, tried.headers)
            reply = await self._transport.asend(request, deadline)
            tried.status_code = reply.status
            return self._decode(reply, query, texts)

    def _parts(self, query: str, texts: Sequence[str]) -> list[Sequence[str]]:
        """Split the documents into requests that the server takes."""
        longest = self._protocol.max_characters
        sent = [text[:longest] if text and not text.isspace() else " " for text in texts]
        limit = self._max_documents or self._protocol.max_documents or len(sent)
        if longest is not None and (cut := sum(len(text) > longest for text in texts)):
            tell(Truncated(cut))
        if not self._listwise:
            parts = split(sent, max_documents=limit, max_bytes=MAX_BODY - len(to_json(query)))
            if len(parts) > 1:
                tell(Split(self.endpoint, len(sent), len(parts)))
            return parts
        if len(sent) > limit:
            raise UnsupportedInputError(
                f"{len(sent)} documents for a listwise model, which must see all of them in one "
                f"request, and that holds {limit}; pass fewer, or raise `max_documents`"
            )
        return [sent]

    def _encode(self, query: str, texts: Sequence[str], additions: Mapping[str, str]) -> Request:
        body = self._protocol.encode(
            query, texts, model=self._model, instruction=self._instruction, raw=self._raw
        )
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        key, source = self._key()
        if key:
            headers["Authorization"] = f"Bearer {key}"
        elif self._is_vendor:
            raise AuthenticationError(f"{self._where}: {source}")
        ours = {name.lower() for name in headers}
        headers |= {name: said for name, said in additions.items() if name.lower() not in ours}
        return Request("POST", self._url, headers, to_json(body), self._where)

    def _decode(self, reply: Reply, query: str, texts: Sequence[str]) -> list[float]:
        sent = [query, *texts]
        if reply.status not in _SUCCESS:
            key, source = self._key()
            raise failure(reply, where=self._where, key=key, key_source=source, texts=sent)
        try:
            return self._scaled(decode(parsed(reply), len(texts)))
        except BackendError as exc:
            said = complaint(reply, key=self._key()[0], texts=sent)
            reason = f"{exc}; it says {said}" if said else str(exc)
            raise type(exc)(f"{self._where}: {reason}") from exc

    def _scaled(self, scores: list[float]) -> list[float]:
        """Bring the server's scores to the promised scale; squash at most once."""
        if self.scale != "probability":
            return scores
        if self._sent == "logit":
            return to_probability(scores)
        for position, score in enumerate(scores):
            if not -_TOLERANCE <= score <= 1 + _TOLERANCE:
                raise InvalidResponse(
                    f"the score of document {position} is {score:.6g}, outside 0 to 1, so this "
                    "server sends logits; set server_scale='logit'"
                )
        return [min(max(score, 0.0), 1.0) for score in scores]

    def _key(self) -> tuple[str, str]:
        """Return the key, "" if there is none, and where it comes from, in words."""
        if self._api_key is not None:
            return _header_safe(self._api_key, "`api_key`"), "the key is the `api_key` given"
        if self._api_key_env is not None:
            key = _header_safe(os.environ.get(self._api_key_env, ""), self._api_key_env)
            if not key:
                raise ConfigError(
                    f"the environment variable {self._api_key_env!r}, named by `api_key_env`, is "
                    "not set"
                )
            return key, f"the key is that of the environment variable {self._api_key_env}"
        for variable in self._protocol.key_variables:
            if key := _header_safe(os.environ.get(variable, ""), variable):
                return key, f"the key is that of the environment variable {variable}"
        usual = self._protocol.key_variables[0]
        return "", f"no key was sent: set {usual}, or name your variable with `api_key_env`"

    def describe(self) -> dict[str, object]:
        """Say which server would be asked and how; sends nothing."""
        return {
            **super().describe(),
            "kind": self._dialect,
            "url": self._url,
            "model": self._model,
            "server_scale": self._sent,
            "max_documents": self._max_documents or self._protocol.max_documents,
            "timeout": self._timeout,
        }

    def to_spec(self) -> dict[str, object]:
        if self._api_key is not None:
            raise ConfigError(
                "a backend with a literal `api_key` can be neither pickled nor written as a spec; "
                "put the key in an environment variable and name that with `api_key_env`"
            )
        names = [name for name in inspect.signature(HTTPBackend).parameters if name != "dialect"]
        given = {name: getattr(self, f"_{name}") for name in names}
        return {"kind": self._dialect, **changed_options(HTTPBackend, given)}

    def __reduce__(self) -> tuple[object, ...]:
        options: dict[str, Any] = self.to_spec()
        return partial(type(self), dialect=options.pop("kind"), **options), ()

    def close(self) -> None:
        self._transport.close()

    async def aclose(self) -> None:
        await self._transport.aclose()


def _scales(
    dialect: str, wanted: Literal["probability", "logit"], server_scale: Scale | None
) -> tuple[bool, Scale, Scale]:
    """Return whether to ask for raw scores, what the server then sends, and what we return."""
    sent = server_scale or DIALECTS[dialect].scale
    if wanted == "logit" and sent == "probability" and DIALECTS[dialect].raw:
        return True, "logit", "logit"
    if wanted == "logit" and sent != "logit":
        able = ", ".join(name for name, other in DIALECTS.items() if other.raw)
        raise ConfigError(
            f"{dialect!r} can't be asked for logits; these can: {able}. If this server sends them "
            "anyway, set server_scale='logit'; else leave out scale='logit'"
        )
    return False, sent, "unknown" if sent == "unknown" else wanted


def _host_and_port(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{port}"


def _header_safe(key: str, source: str) -> str:
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the key in {source} holds characters that no HTTP header may hold")
    return key


def _check_scales(*, scale: str, server_scale: str | None) -> None:
    if scale not in _SCALES[:2]:
        raise ConfigError(unknown("`scale`", str(scale), _SCALES[:2]))
    if server_scale not in (None, *_SCALES):
        raise ConfigError(unknown("`server_scale`", str(server_scale), _SCALES))


def _check_positive(**seconds: float) -> None:
    for name, value in seconds.items():
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ConfigError(f"`{name}` must be a number of seconds above 0, not {value!r}")


def _check_counts(**counts: int | None) -> None:
    for name, value in counts.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and (not whole or value < 1):
            raise ConfigError(f"`{name}` must be an integer of at least 1, not {value!r}")
