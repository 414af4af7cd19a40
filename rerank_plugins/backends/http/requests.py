"""One call to a rerank server: what to send, in which parts, to which server, and its scores."""

from __future__ import annotations

import logging
import re
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rerank_plugins._internal.secret import Secret
from rerank_plugins.backends.http.credentials import Credentials, Key
from rerank_plugins.backends.http.decoding import decode_facts
from rerank_plugins.backends.http.dialect import Dialect
from rerank_plugins.backends.http.endpoints import Endpoint, Endpoints
from rerank_plugins.backends.http.errors import quote_message, status_error, via_proxy
from rerank_plugins.backends.http.headers import read_headers
from rerank_plugins.backends.http.limits import size_limit
from rerank_plugins.backends.http.reading import parse_json
from rerank_plugins.backends.http.responses import SUCCESS, HTTPRequest, HTTPResponse
from rerank_plugins.backends.http.splitting import Part, merge_parts, split, to_json
from rerank_plugins.backends.http.transport import Exchange
from rerank_plugins.backends.scale import Scaling, may_be_probabilities
from rerank_plugins.errors import (
    AuthenticationError,
    BackendError,
    BackendRejected,
    InvalidResponse,
    UnsupportedInputError,
)
from rerank_plugins.hooks import Split, Truncated
from rerank_plugins.hooks._dispatch import emit
from rerank_plugins.scores import Scores, check_scores

__all__ = ["Job", "RequestFlow"]

_log = logging.getLogger(__name__)

MAX_BODY = 1_000_000
"""Largest request in bytes, where it can be split: nginx refuses more than 1 MiB by default."""

# A response may repeat the documents; each byte of them may take six in JSON, as in `\u003c`.
_RESPONSE_BYTES, _BYTES_PER_DOCUMENT, _BYTES_PER_BYTE = 2**16, 2**12, 6
_RESPONSE_VALUES = 2**10

_REFUSALS = frozenset({400, 422})

_DOUBT = (
    "%s should send logits, and all scores of a response lie between 0 and 1; if they are "
    "probabilities, set server_scale='probability', else server_scale='logit'"
)
_MISREADINGS = (
    *(ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError),
)


class Job(NamedTuple):
    """One call: a query and its documents, as they are sent."""

    query: str
    instruction: str | None
    texts: Sequence[str]
    truncated: frozenset[int]
    """Positions of the documents that were cut."""


class RequestFlow:
    """Turns a query and documents into requests, and responses into scores; does no I/O.

    Args:
        endpoints: the servers.
        dialect: their protocol.
        model: the model's name, if it is sent.
        credentials: where the key is.
        headers: what is sent besides, as `read_headers` takes it.
        scaling: how to turn what the servers send into the scale of the backend.
        scale_is_assumed: whether nobody has said what the servers send; what contradicts the
            assumption is then logged, once.
        max_documents: maximum documents in one request; None is no limit.
        listwise: whether documents must not be split.
        send_top_n: whether to send `top_n`, the number of documents in the request.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        dialect: Dialect,
        model: str | None,
        credentials: Credentials,
        headers: Mapping[str, str],
        scaling: Scaling,
        scale_is_assumed: bool,
        max_documents: int | None,
        listwise: bool,
        send_top_n: bool,
    ) -> None:
        self._endpoints = endpoints
        self._dialect = dialect
        self._model = model
        self._credentials = credentials
        self._headers = headers
        self._scaling = scaling
        self._doubts_scale = scale_is_assumed and scaling.sent == "logit"
        self.max_documents = max_documents
        self._listwise = listwise
        self._send_top_n = send_top_n

    def job(self, query: str, texts: Sequence[str], instruction: str | None) -> Job:
        """Prepare the documents of a call: blank ones get a placeholder, very long ones are cut."""
        longest = self._dialect.max_characters
        blank = self._dialect.blank
        prepared = [text[:longest] if text and not text.isspace() else blank for text in texts]
        if longest is None:
            return Job(query, instruction, prepared, frozenset())
        truncated = frozenset(at for at, text in enumerate(texts) if len(text) > longest)
        if truncated:
            emit(Truncated(len(truncated)))
        return Job(query, instruction, prepared, truncated)

    def parts(self, job: Job) -> list[Part]:
        """Split the documents into requests that the servers accept.

        Raises:
            UnsupportedInputError: there are too many for a listwise model.
        """
        texts = job.texts
        limit = self.max_documents
        if self._listwise and limit is not None and len(texts) > limit:
            raise UnsupportedInputError(
                f"{len(texts)} documents for a listwise model, which needs all of them in one "
                f"request of at most {limit}; pass fewer, or raise `max_documents`"
            )
        return self._split(job, Part(0, texts)) if texts else []

    def _split(self, job: Job, part: Part) -> list[Part]:
        """Split a part by all limits that the servers have reported so far."""
        if self._listwise:
            return [part]
        limits = (self.max_documents, self._endpoints.maximum("documents"))
        parts = split(
            part,
            max_documents=min(filter(None, limits), default=len(part.texts)),
            max_bytes=(self._endpoints.maximum("bytes") or MAX_BODY)
            - len(to_json([job.query, job.instruction])),
            overhead=self._bytes_per_document(job),
        )
        if len(parts) > 1 and self._dialect.max_documents != 1:  # that is how it always works
            emit(Split(self._endpoints.label, len(part.texts), len(parts)))
        return parts

    def _bytes_per_document(self, job: Job) -> int:
        """Return how many bytes each document adds to a request beside its own text."""
        query = len(to_json(job.query)) if self._dialect.repeats_query else 0
        return query + (self._dialect.prompt.size if self._dialect.prompt else 0)

    def exchange(self, job: Job, part: Part, deadline: float) -> Exchange:
        """Score one part, in smaller parts where a server refuses its size."""
        parts = self._split(job, part)
        if len(parts) == 1:
            try:
                return (yield from self._exchange_unsplit(job, part, deadline))
            except _TooLarge as refusal:
                parts = self._split(job, part)  # by the limit just learned
                if len(parts) == 1:
                    raise BackendRejected(str(refusal), status_code=refusal.status_code) from None
            except _FieldRefused:
                parts = [part]  # again, without the field
        scores: list[Scores] = []
        for smaller in parts:
            scores += [(yield from self.exchange(job, smaller, deadline))]
        return merge_parts(len(part.texts), parts, scores)

    def _exchange_unsplit(self, job: Job, part: Part, deadline: float) -> Exchange:
        """Send to a server, and to another one if it fails; raise the error of the last one."""
        tried: dict[Endpoint, str] = {}
        while True:
            try:
                with self._endpoints.attempt(tried, len(part.texts)) as (endpoint, facts):
                    tried[endpoint] = ""
                    extra = read_headers(self._headers)
                    key = self._credentials.read()._replace(other_secrets=extra.secrets)
                    attempt = _Attempt(endpoint, key, job, part)
                    request = self._encode(attempt, {**facts.headers, **extra.headers})
                    now = time.monotonic()
                    # Where there is another server, a silent one gets half of the time.
                    if self._endpoints.has_untried(tried):
                        response = yield request, now + (deadline - now) / 2
                    else:
                        response = yield request, deadline
                    facts.status_code = response.status
                    return self._decode(attempt, request, response)
            except BackendRejected:
                raise
            except BackendError as error:
                if not self._endpoints.has_untried(tried) or time.monotonic() >= deadline:
                    for earlier in filter(None, tried.values()):
                        error.add_note(earlier)
                    raise
                tried[endpoint] = f"before that, {type(error).__name__}: {error}"

    def _encode(self, attempt: _Attempt, extra_headers: Mapping[str, str | Secret]) -> HTTPRequest:
        endpoint, key, job, part = attempt
        body = self._dialect.encode(
            job.query,
            part.texts,
            model=self._model,
            instruction=job.instruction,
            raw=self._scaling.raw,
        )
        body = {name: value for name, value in body.items() if name not in endpoint.refused_fields}
        if self._send_top_n:
            body["top_n"] = len(part.texts)
        headers: dict[str, str | Secret] = {
            "Accept": "application/json",
            "Content-Type": "application/json",
        }
        if key.value:
            headers[self._dialect.key_header] = key.header
        elif self._dialect.base_url and endpoint.url.startswith(f"{self._dialect.base_url}/"):
            raise AuthenticationError(f"{endpoint.where}: {key.source}")
        for others in (extra_headers, self._dialect.headers):
            own = {name.lower() for name in headers}
            headers |= {name: value for name, value in others.items() if name.lower() not in own}
        content = to_json(body)
        return HTTPRequest(
            "POST",
            endpoint.url,
            headers,
            content,
            endpoint.where,
            max_response=_RESPONSE_BYTES
            + _BYTES_PER_DOCUMENT * len(part.texts)
            + _BYTES_PER_BYTE * len(content),
        )

    def _decode(self, attempt: _Attempt, request: HTTPRequest, response: HTTPResponse) -> Scores:
        endpoint, key, job, part = attempt
        count = len(part.texts)
        query = [job.query, job.instruction or ""]
        if response.status not in SUCCESS:
            error = status_error(
                response,
                where=endpoint.where,
                key=key,
                query=query,
                documents=part.texts,
                start=part.start,
            )
            if field := self._refused_field(endpoint, response):
                endpoint.refused_fields |= {field}
                raise _FieldRefused(str(error), status_code=response.status)
            limit = size_limit(response, documents=count, size=len(request.body))
            if limit is not None and count > 1 and not self._listwise:
                endpoint.limits.learn(limit)
                raise _TooLarge(str(error), status_code=response.status)
            raise error
        try:
            max_values = _RESPONSE_VALUES + self._dialect.values_per_document * count
            return self._read(parse_json(response, max_values=max_values), count, endpoint)
        except BackendError as exc:
            kind, problem = type(exc), key.mask(str(exc)) or "the response can't be used"
        # Outside of the handler: what was raised there may hold the key, sent back as a header.
        if message := quote_message(response, key=key, texts=[*query, *part.texts]):
            problem += f"; the server says {message}"
        raise kind(f"{endpoint.where}: {problem}{via_proxy(response)}")

    def _refused_field(self, endpoint: Endpoint, response: HTTPResponse) -> str | None:
        """Return which of the fields that every request holds an older server does not know."""
        if response.status not in _REFUSALS:
            return None
        text = response.content.decode(errors="replace")
        for name, value in self._dialect.always.items():
            names = (name, *value) if isinstance(value, Mapping) else (name,)
            named = any(re.search(rf"\b{re.escape(each)}\b", text) for each in names)
            is_last = {*self._dialect.one_of} - endpoint.refused_fields == {name}
            if named and name not in endpoint.refused_fields and not is_last:
                return name
        return None

    def _read(self, body: object, count: int, endpoint: Endpoint) -> Scores:
        """Read scores and usage; a user's own dialect may stumble over a body or misread it."""
        try:
            values = check_scores(self._dialect.decode(body, count), count)
            usage = self._dialect.usage(body)
        except _MISREADINGS as exc:
            reason = f"{type(exc).__name__} {_place(exc)}"
        else:
            if self._doubts_scale and may_be_probabilities(values):
                self._doubts_scale = False
                _log.warning(_DOUBT, endpoint.where)
            facts = decode_facts(body, count)
            return Scores(self._scaling.applied(values), usage=usage, **facts._asdict())
        # Outside of the handler: the message and the frames of its error may hold a document.
        raise InvalidResponse(f"the dialect can't read the response ({reason})")


def _place(exc: Exception) -> str:
    """Return where an error was raised."""
    frame = traceback.extract_tb(exc.__traceback__, -1)[0]
    return f"in {frame.name}, line {frame.lineno}"


class _Attempt(NamedTuple):
    """A part of a call on its way to one server, with the key as it was when it was sent."""

    endpoint: Endpoint
    key: Key
    job: Job
    part: Part


class _FieldRefused(BackendRejected):
    """A request that may be sent without one of its fields; never leaves this module."""


class _TooLarge(BackendRejected):
    """A request that may be sent in smaller parts; never leaves this module."""
