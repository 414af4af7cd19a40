"""`HTTPBackend`: documents scored by a rerank server or a vendor's service."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

from rerank_plugins._internal import context as _context
from rerank_plugins._internal.checks import check_boolean, check_choice, check_integer, check_number
from rerank_plugins._internal.options import changed_options, unknown
from rerank_plugins._internal.parallel import aside_by_side, side_by_side
from rerank_plugins._internal.secret import Secret
from rerank_plugins.backend import Backend, ServerCheck
from rerank_plugins.backends.http.credentials import Credentials
from rerank_plugins.backends.http.dialect import Dialect
from rerank_plugins.backends.http.dialects import DIALECTS
from rerank_plugins.backends.http.discovery import UnknownServer, list_models, probe
from rerank_plugins.backends.http.endpoints import Endpoint, Endpoints
from rerank_plugins.backends.http.headers import check_headers
from rerank_plugins.backends.http.requests import Job, RequestFlow
from rerank_plugins.backends.http.splitting import Part, merge_parts
from rerank_plugins.backends.http.templates import missing_template, with_template
from rerank_plugins.backends.http.transport import Transport
from rerank_plugins.backends.scale import Scaling
from rerank_plugins.content import Document, Query, Requests, check_request
from rerank_plugins.errors import ConfigError, RerankError
from rerank_plugins.scores import Scale, Scores

__all__ = ["HTTPBackend"]

_log = logging.getLogger(__name__)

_SERVER_SCALES = ("probability", "logit", "unknown")


class HTTPBackend(Backend):
    """Scores documents with a rerank server over HTTP; `load_backend()` builds it from a spec.

    A call that is too large for one request is split, and the parts are sent side by side: all of
    them succeed, or the call fails. A limit that the server reveals by refusing a request is
    remembered. Blank documents are sent as one space, because servers refuse an empty string or
    score it by different rules.

    Args:
        base_url: where the server is, such as `"http://gpu:9997"`. It may have a path prefix,
            end in `…/v1` or be the whole rerank URL. None is the vendor's own address.
        dialect: the kind of server: `"xinference"`, `"tei"`, `"cohere"`, …; or a `Dialect` of your
            own. A backend with one can be pickled if it can, but not written as a spec.
        endpoints: instead of `base_url`, the URLs of several servers of one model. Each request
            goes to a healthy server with few requests in flight, and to another if that fails.
        model: the model's name on the server (Xinference: its UID).
        api_key: the key. A backend with a literal key can't be pickled or written as a spec.
        api_key_env: the environment variable that holds the key, in capitals; it is read at each
            request. If both are None, the dialect's usual variable is read, such as
            `XINFERENCE_API_KEY`.
        timeout: seconds for a whole call with all its parts; less if a wrapper's deadline is
            sooner.
        connect_timeout: seconds to wait for a connection.
        scale: the scale of the scores: probabilities from 0 to 1, or logits.
        server_scale: the scale that the server sends, if it differs from the dialect's. Logits
            become probabilities by the sigmoid; `"unknown"` scores stay as they are.
        max_documents: maximum documents in one request, if the server's limit is not the usual one.
        max_parallel: maximum requests of one call in flight at the same time.
        listwise: whether the model scores documents in view of each other; such calls are never
            split.
        instruction: what the model should look for, if the dialect or the template can hold it.
        template: the prompt around the texts for a language model on a server that sends them to
            the model as they come: its name, such as `"qwen3-reranker"`, or a text with `{query}`
            and then `{document}`. `"server"` says that the server writes the prompt.
        send_top_n: whether to send `top_n`, the number of documents, to a server that demands it.
        headers: headers to send with each request, such as those a gateway needs. A value
            `"$NAME"` is read from that environment variable at each request; secrets must be.
        verify: whether to check the server's certificate, or the CA file or folder to trust.

    Raises:
        ConfigError: an option is out of range, missing, or not for this dialect.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        dialect: str | Dialect,
        endpoints: Sequence[str] | None = None,
        model: str | None = None,
        api_key: str | Secret | None = None,
        api_key_env: str | None = None,
        timeout: float = 10.0,
        connect_timeout: float = 2.0,
        scale: Literal["probability", "logit"] = "probability",
        server_scale: Literal["probability", "logit", "unknown"] | None = None,
        max_documents: int | None = None,
        max_parallel: int = 4,
        listwise: bool = False,
        instruction: str | None = None,
        template: str | None = None,
        send_top_n: bool = False,
        headers: Mapping[str, str] | None = None,
        verify: bool | str | Path = True,
    ) -> None:
        key = api_key if isinstance(api_key, Secret | None) else Secret(api_key)
        api_key = None  # no frame shows it any more
        protocol = _dialect(dialect)
        urls = _rerank_urls(protocol, base_url, endpoints, model)
        if protocol.needs_model and not model:
            raise ConfigError(f"{protocol.name!r} needs `model`: the model's name on the server")
        sent = with_template(protocol, template, instruction)
        if instruction is not None and not sent.takes_instructions:
            able = ", ".join(name for name, other in DIALECTS.items() if other.takes_instructions)
            raise ConfigError(f"{protocol.name!r} can't send an `instruction`; these can: {able}")
        check_choice("scale", scale, ("probability", "logit"))
        check_choice("server_scale", server_scale, _SERVER_SCALES, optional=True)
        check_number("timeout", timeout, above=0, unit="seconds")
        check_number("connect_timeout", connect_timeout, above=0, unit="seconds")
        check_integer("max_documents", max_documents, optional=True)
        check_integer("max_parallel", max_parallel)
        check_boolean("send_top_n", send_top_n)
        if headers is not None:
            check_headers(headers, key_header=protocol.key_header)
        self._base_url = base_url
        self._endpoints = None if endpoints is None else list(endpoints)
        self._dialect = protocol
        self._model = model
        self._api_key = key
        self._api_key_env = api_key_env
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._scale = scale
        self._server_scale = server_scale
        self._max_documents = max_documents
        self._max_parallel = max_parallel
        self._listwise = listwise
        self._instruction = instruction
        self._template = template
        self._send_top_n = send_top_n
        self._headers = None if headers is None else dict(headers)
        self._verify = verify = str(verify) if isinstance(verify, Path) else verify
        self._scaling = _scaling(protocol, scale, server_scale)
        self.scale = self._scaling.scale
        self.cacheable = self.pointwise = not listwise
        self.instructions = sent.takes_instructions
        self._facts = sent.facts
        self._missing_template = missing_template(protocol, template, [model])
        self._servers = Endpoints([Endpoint(url, dialect=protocol.name) for url in urls])
        self._credentials = Credentials(
            key, api_key_env, protocol.key_variables, prefix=protocol.key_prefix
        )
        self._flow = RequestFlow(
            self._servers,
            dialect=sent,
            model=model,
            credentials=self._credentials,
            headers=self._headers or {},
            scaling=self._scaling,
            scale_is_assumed=server_scale is None,
            max_documents=max_documents or protocol.max_documents,
            listwise=listwise,
            send_top_n=send_top_n,
        )
        self._name = self._make_name(urls)
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
        return self._dialect.name

    @property
    def model(self) -> str | None:
        return self._model

    @property
    def name(self) -> str:
        return self._name

    def score(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        return self._score(self._job(query, documents), self._max_parallel)

    def score_many(self, requests: Requests) -> list[Scores]:
        """Score several requests side by side; `timeout` holds for each of them."""
        jobs = [self._job(query, documents) for query, documents in requests]
        parallel = 1 if len(jobs) > 1 else self._max_parallel
        return side_by_side(lambda job: self._score(job, parallel), jobs, self._max_parallel)

    async def ascore(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        job, deadline = self._job(query, documents), self._deadline()
        parts = self._flow.parts(job)
        scores = await aside_by_side(
            lambda part: self._transport.arun(self._flow.exchange(job, part, deadline)),
            parts,
            self._max_parallel,
        )
        return self._merge(job, parts, scores)

    def _score(self, job: Job, parallel: int) -> Scores:
        deadline, parts = self._deadline(), self._flow.parts(job)
        scores = side_by_side(
            lambda part: self._transport.run(self._flow.exchange(job, part, deadline)),
            parts,
            parallel,
        )
        return self._merge(job, parts, scores)

    def _job(self, query: str | Query, documents: Sequence[Document]) -> Job:
        query, texts = check_request(
            query,
            documents,
            instructions=self.instructions,
            label=self.label if isinstance(query, Query) else None,
        )
        if self._missing_template is not None and texts:
            _log.warning(self._missing_template)
            self._missing_template = None
        instruction = query.instruction if isinstance(query, Query) else None
        text = query.text if isinstance(query, Query) else query
        return self._flow.job(text, texts, instruction or self._instruction)  # type: ignore[arg-type]  # checked: strings

    def _merge(self, job: Job, parts: Sequence[Part], scores: Sequence[Scores]) -> Scores:
        merged = merge_parts(len(job.texts), parts, scores)
        return Scores(
            merged.values,
            backend=self._name,
            label=self.label,
            model=self._model,
            scale=self.scale,
            truncated=merged.truncated | job.truncated,
            windows=merged.windows,
            passages={
                at: span for at, span in merged.passages.items() if span.end <= len(job.texts[at])
            },
            usage=merged.usage,
        )

    def _make_name(self, urls: Sequence[str]) -> str:
        """Return what makes the scores: the servers, the model, the instruction, the scale.

        A gateway may choose the model by a header, so they count, too, without their secrets.
        """
        settings = {"model": self._model, "instruction": self._instruction}
        if self._headers:
            sent = sorted((name.lower(), value) for name, value in self._headers.items())
            settings["headers"] = hashlib.sha256(json.dumps(sent).encode()).hexdigest()[:12]
        facts = {name: value for name, value in settings.items() if value}
        facts |= {**self._facts, "server_scale": self._scaling.sent, "scale": self.scale}
        return f"{self.kind}+{','.join(sorted(urls))}?{urlencode(facts, safe='/:')}"

    def _deadline(self) -> float:
        """Return when a call that starts now must end, in seconds of `time.monotonic()`."""
        return min(time.monotonic() + self._timeout, _context.deadline())

    def describe(self) -> dict[str, object]:
        """Return the server and the settings of its requests; sends nothing."""
        return {
            **super().describe(),
            "kind": self.kind,
            "url": self._servers.all[0].url,
            "model": self._model,
            "server_scale": self._scaling.sent,
            "max_documents": self._flow.max_documents,
            "timeout": self._timeout,
            "endpoints": [endpoint.describe() for endpoint in self._servers.all],
        }

    @property
    def dialect(self) -> Dialect:
        """The wire format of its servers."""
        return self._dialect

    @property
    def base_urls(self) -> tuple[str, ...]:
        """The addresses that were set, in their order; empty for a vendor's own."""
        if self._endpoints is not None:
            return tuple(self._endpoints)
        return () if self._base_url is None else (self._base_url,)

    def check_requirements(self) -> None:
        if self._credentials.read().value or self.base_urls or self._dialect.base_url is None:
            return
        variables = " or ".join(self._dialect.key_variables)
        raise ConfigError(f"{self.kind!r} needs a key: set {variables}")

    def list_models(self, url: str) -> tuple[str, ...]:
        """Return the models that a server of OpenAI's protocol lists; none if it lists none.

        Raises:
            BackendError: it does not answer, or refuses the key.
        """
        return list_models(url, key=self._credentials.read(), verify=self._verify)

    def check_servers(self) -> Iterator[ServerCheck]:
        return map(self._check_server, self.base_urls)

    def _check_server(self, url: str) -> ServerCheck:
        try:
            server = probe(url, api_key=self._credentials.read().header, verify=self._verify)
        except UnknownServer:  # a proxy, perhaps: scoring shows it
            detail = f"{url} does not identify itself; taken for {self.kind!r}, as configured"
            return ServerCheck(ok=True, detail=detail)
        except RerankError as error:
            return ServerCheck(ok=False, detail=str(error))
        by_name = self._dialect.needs_model and DIALECTS[server.dialect].needs_model
        if by_name and server.models and self._model not in server.models:
            models = ", ".join(server.models)
            detail = f"it has no rerank model {self._model!r}; it has: {models}"
            return ServerCheck(ok=False, detail=detail, facts=asdict(server))
        served = [self._model] if self._model else server.models
        missing = missing_template(self._dialect, self._template, served)
        detail = f"{server.summary}; {missing}" if missing else server.summary
        return ServerCheck(ok=True, detail=detail, facts=asdict(server))

    def to_spec(self) -> dict[str, object]:
        self.check_no_literal_key()
        if DIALECTS.get(self.kind) is not self._dialect:
            raise ConfigError(
                f"a backend with the dialect {self.kind!r} of your own can't be written as a spec"
            )
        return {"kind": self.kind, **self._options()}

    def _options(self) -> dict[str, Any]:
        names = [name for name in inspect.signature(HTTPBackend).parameters if name != "dialect"]
        options = {name: getattr(self, f"_{name}") for name in names}
        return changed_options(HTTPBackend, options)

    def __reduce__(self) -> tuple[object, ...]:
        self.check_no_literal_key()
        is_built_in = DIALECTS.get(self.kind) is self._dialect
        dialect = self.kind if is_built_in else self._dialect
        return partial(type(self), dialect=dialect, **self._options()), ()

    def check_no_literal_key(self) -> None:
        """Check that this backend can be pickled and written as a spec.

        Raises:
            ConfigError: its key was passed as a text.
        """
        if self._api_key is not None:
            raise ConfigError(
                "a backend with a literal `api_key` can't be pickled or written as a spec; put the "
                "key in an environment variable and name the variable with `api_key_env`"
            )

    def close(self) -> None:
        self._transport.close()

    async def aclose(self) -> None:
        await self._transport.aclose()


def _dialect(dialect: str | Dialect) -> Dialect:
    if isinstance(dialect, Dialect):
        return dialect
    if not isinstance(dialect, str) or dialect not in DIALECTS:
        raise ConfigError(unknown("dialect", str(dialect), DIALECTS))
    return DIALECTS[dialect]


def _rerank_urls(
    dialect: Dialect, base_url: str | None, endpoints: Sequence[str] | None, model: str | None
) -> list[str]:
    """Return the URLs of rerank requests, without duplicates."""
    if endpoints is not None:
        if base_url is not None:
            raise ConfigError("give either `base_url` or `endpoints`, not both")
        if isinstance(endpoints, str) or not endpoints:
            raise ConfigError(f"`endpoints` must be a list of URLs, not {endpoints!r}")
        return list(dict.fromkeys(dialect.rerank_url(url, model) for url in endpoints))
    address = dialect.base_url if base_url is None else base_url
    if address is None:
        query = f"?model={model}" if model else ""
        raise ConfigError(
            f"{dialect.name!r} needs `base_url`, the server's URL; in a spec string write "
            f"{dialect.name}+http://HOST:8000{query}"
        )
    return [dialect.rerank_url(address, model)]


def _scaling(
    dialect: Dialect, wanted: Literal["probability", "logit"], server_scale: Scale | None
) -> Scaling:
    sent = server_scale or dialect.scale
    scaling = Scaling.between(wanted, sent, can_send_raw=bool(dialect.raw))
    if scaling is None:
        able = ", ".join(name for name, other in DIALECTS.items() if other.raw)
        raise ConfigError(
            f"{dialect.name!r} can't send logits on request; these can: {able}. If this server "
            "always sends logits, set server_scale='logit'; otherwise remove scale='logit'"
        )
    return scaling
