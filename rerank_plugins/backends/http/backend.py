"""`HTTPBackend`: documents scored by a rerank server or a vendor's service."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal
from urllib.parse import urlencode

from rerank_plugins._internal import context as _context
from rerank_plugins._internal.options import changed_options, unknown
from rerank_plugins._internal.parallel import aside_by_side, side_by_side
from rerank_plugins.backend import Backend
from rerank_plugins.backends.http.checks import check_choices, check_counts, check_seconds
from rerank_plugins.backends.http.credentials import Credentials
from rerank_plugins.backends.http.dialects import DIALECTS
from rerank_plugins.backends.http.endpoints import Endpoint, Endpoints
from rerank_plugins.backends.http.requests import Asker
from rerank_plugins.backends.http.transport import Transport
from rerank_plugins.backends.scale import Scaling
from rerank_plugins.content import Document, Query, Requests, check_texts
from rerank_plugins.errors import ConfigError
from rerank_plugins.scores import Scale, Scores

__all__ = ["HTTPBackend"]


class HTTPBackend(Backend):
    """Scores documents with a rerank server over HTTP; `load_backend()` builds it from a spec.

    A request that is too large for the server is split, and the parts are sent side by side:
    all of them succeed, or the call fails. A limit that the server tells by refusing a request is
    remembered. Blank documents are sent as one space, because
    servers refuse an empty string or score it by different rules.

    Args:
        base_url: where the server is, such as `"http://gpu:9997"`; a path prefix, `…/v1` and
            the whole rerank URL are understood. None: the vendor's own address.
        dialect: the kind of server: `"xinference"`, `"tei"`, `"cohere"`, …
        endpoints: in place of `base_url`, the URLs of several servers of one model; each request
            goes to one that is well and has little to do, and to another one if that fails.
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
        endpoints: Sequence[str] | None = None,
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
        urls = _addresses(dialect, base_url, endpoints, model)
        if protocol.needs_model and not model:
            raise ConfigError(f"{dialect!r} needs `model`: the model's name on the server")
        if instruction is not None and protocol.instruct is None:
            able = ", ".join(name for name, other in DIALECTS.items() if other.instruct)
            raise ConfigError(f"{dialect!r} can't send an `instruction`; these can: {able}")
        check_choices(scale=scale, server_scale=server_scale)
        check_seconds(timeout=timeout, connect_timeout=connect_timeout)
        check_counts(max_documents=max_documents, max_parallel=max_parallel)
        self._base_url = base_url
        self._endpoints = None if endpoints is None else list(endpoints)
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
        self._scaling = _scaling(dialect, scale, server_scale)
        self.scale = self._scaling.scale
        self.cacheable = not listwise
        self._servers = Endpoints([Endpoint(url, dialect=dialect) for url in urls])
        self._asker = Asker(
            self._servers,
            protocol=protocol,
            model=model,
            instruction=instruction,
            credentials=Credentials(api_key, api_key_env, protocol.key_variables),
            scaling=self._scaling,
            max_documents=max_documents or protocol.max_documents,
            listwise=listwise,
        )
        encrypted = any(url.startswith("https:") for url in urls)
        self._transport = Transport(
            connect_timeout=connect_timeout, verify=verify if encrypted else None
        )

    @property
    def endpoint(self) -> str:
        """The server's `host:port`; of several, with commas."""
        return self._servers.label

    @property
    def kind(self) -> str:
        return self._dialect

    @property
    def model(self) -> str | None:
        return self._model

    @property
    def name(self) -> str:
        made_by = {"model": self._model, "instruction": self._instruction}
        facts = {name: value for name, value in made_by.items() if value}
        facts |= {"server_scale": self._scaling.sent, "scale": self.scale}
        urls = ",".join(sorted(server.url for server in self._servers.all))
        return f"{self._dialect}+{urls}?{urlencode(facts, safe='/:')}"

    def score(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        return self._score(*check_texts(query, documents), self._max_parallel)

    def score_many(self, requests: Requests) -> list[Scores]:
        """Score several requests side by side; `timeout` holds for each of them."""
        asked = [check_texts(query, documents) for query, documents in requests]
        parallel = 1 if len(asked) > 1 else self._max_parallel
        return side_by_side(lambda one: self._score(*one, parallel), asked, self._max_parallel)

    async def ascore(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        text, texts = check_texts(query, documents)
        deadline = self._end()
        scores = await aside_by_side(
            lambda part: self._transport.arun(self._asker.asking(text, part, deadline)),
            self._asker.parts(text, texts),
            self._max_parallel,
        )
        return self._facts(score for part in scores for score in part)

    def _score(self, query: str, texts: Sequence[str], parallel: int) -> Scores:
        deadline = self._end()
        scores = side_by_side(
            lambda part: self._transport.run(self._asker.asking(query, part, deadline)),
            self._asker.parts(query, texts),
            parallel,
        )
        return self._facts(score for part in scores for score in part)

    def _facts(self, values: Iterable[float]) -> Scores:
        return Scores(values, backend=self.name, model=self._model, scale=self.scale)

    def _end(self) -> float:
        """Return when a call that starts now must be over, in seconds of `time.monotonic()`."""
        return min(time.monotonic() + self._timeout, _context.deadline())

    def describe(self) -> dict[str, object]:
        """Say which server would be asked and how; sends nothing."""
        return {
            **super().describe(),
            "kind": self._dialect,
            "url": self._servers.all[0].url,
            "model": self._model,
            "server_scale": self._scaling.sent,
            "max_documents": self._asker.max_documents,
            "timeout": self._timeout,
            "endpoints": [server.describe() for server in self._servers.all],
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


def _addresses(
    dialect: str, base_url: str | None, endpoints: Sequence[str] | None, model: str | None
) -> list[str]:
    """Return the URLs that take requests, each once."""
    protocol = DIALECTS[dialect]
    if endpoints is not None:
        if base_url is not None:
            raise ConfigError("give either `base_url` or `endpoints`, not both")
        if isinstance(endpoints, str) or not endpoints:
            raise ConfigError(f"`endpoints` must be a list of URLs, not {endpoints!r}")
        return list(dict.fromkeys(map(protocol.endpoint, endpoints)))
    address = protocol.base_url if base_url is None else base_url
    if address is None:
        asked = f"?model={model}" if model else ""
        raise ConfigError(
            f"{dialect!r} needs `base_url`, the server's URL; in a spec string write "
            f"{dialect}+http://HOST:8000{asked}"
        )
    return [protocol.endpoint(address)]


def _scaling(
    dialect: str, wanted: Literal["probability", "logit"], server_scale: Scale | None
) -> Scaling:
    protocol = DIALECTS[dialect]
    sent = server_scale or protocol.scale
    scaling = Scaling.between(wanted, sent, can_send_raw=bool(protocol.raw))
    if scaling is None:
        able = ", ".join(name for name, other in DIALECTS.items() if other.raw)
        raise ConfigError(
            f"{dialect!r} can't be asked for logits; these can: {able}. If this server sends them "
            "anyway, set server_scale='logit'; else leave out scale='logit'"
        )
    return scaling
