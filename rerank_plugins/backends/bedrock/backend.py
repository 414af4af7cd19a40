"""`BedrockBackend`: documents scored by a reranker of Amazon Bedrock."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from rerank_plugins._internal import context as _context
from rerank_plugins._internal.checks import check_integer, check_number
from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins._internal.optional import require
from rerank_plugins._internal.options import changed_options
from rerank_plugins._internal.parallel import in_daemon_thread, side_by_side
from rerank_plugins._internal.secret import Secret
from rerank_plugins.backend import Backend
from rerank_plugins.backends.bedrock.bounded import BoundedCall, BoundedSending
from rerank_plugins.backends.bedrock.failures import CREDENTIALS_HINT, is_foreign, translated
from rerank_plugins.backends.http.credentials import Key
from rerank_plugins.backends.http.decoding import decode_results
from rerank_plugins.backends.http.splitting import Part, merge_parts, split
from rerank_plugins.backends.scale import as_probabilities
from rerank_plugins.content import Document, Query, Requests, check_texts
from rerank_plugins.errors import BackendTimeout, ConfigError, InvalidResponse, RerankError
from rerank_plugins.hooks import Split, Truncated
from rerank_plugins.hooks._dispatch import AttemptFacts, emit, observe_attempt
from rerank_plugins.scores import Scale, Scores

__all__ = ["BedrockBackend"]

_EXTRA = "bedrock"
_SERVICE = "bedrock-agent-runtime"
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
_MAX_CHARACTERS = 32_000
_MAX_DOCUMENTS = 1_000
_MAX_BODY = 4_000_000


class BedrockBackend(Backend):
    """Scores documents with a reranker of Amazon Bedrock, by its Rerank operation.

    boto3 signs and sends the requests. It finds credentials as always: in the environment, in
    profiles, in the roles of machines and containers. It retries nothing: the retries of this
    package do. A call that is too large for one request is split, and the parts are sent side by
    side. Documents longer than 32,000 characters are cut there, and blank ones sent as one space.

    Args:
        model: the id of a foundation model, such as `"cohere.rerank-v3-5:0"`, or the ARN of any
            reranker.
        region: where the model is, such as `"us-west-2"`. None is that of `AWS_REGION`,
            `AWS_DEFAULT_REGION` or the profile.
        profile: the profile of AWS's configuration files. None is boto3's choice.
        endpoint_url: the service's URL, where it is not AWS's own, such as that of a private link.
        timeout: seconds for a whole call with all its parts; less if a wrapper's deadline is
            sooner.
        connect_timeout: seconds to wait for a connection.
        max_documents: maximum documents in one request.
        max_parallel: maximum requests of one call in flight at the same time.

    Raises:
        ConfigError: an option is out of range or missing.
    """

    scale: Scale = "probability"

    def __init__(
        self,
        model: str | None = None,
        *,
        region: str | None = None,
        profile: str | None = None,
        endpoint_url: str | None = None,
        timeout: float = 10.0,
        connect_timeout: float = 2.0,
        max_documents: int = _MAX_DOCUMENTS,
        max_parallel: int = 4,
    ) -> None:
        if not model:
            raise ConfigError(
                "'bedrock' needs `model`: write bedrock:cohere.rerank-v3-5:0 or "
                "bedrock:amazon.rerank-v1:0, or the ARN of a reranker"
            )
        if endpoint_url is not None and not _is_url(endpoint_url):
            raise ConfigError(
                "`endpoint_url` must be like https://host, without a user name or a query"
            )
        check_number("timeout", timeout, above=0, unit="seconds")
        check_number("connect_timeout", connect_timeout, above=0, unit="seconds")
        check_integer("max_documents", max_documents)
        check_integer("max_parallel", max_parallel)
        self._model, self._region, self._profile = model, region, profile
        self._endpoint_url = endpoint_url
        self._timeout, self._connect_timeout = timeout, connect_timeout
        self._max_documents, self._max_parallel = max_documents, max_parallel
        self._clients: dict[int, _Client] = {}
        self._lock = ForkSafeLock()

    @property
    def name(self) -> str:
        place = self._endpoint_url or self._region or "default"
        return f"bedrock+{place}?{urlencode({'model': self._model}, safe='/:')}"

    @property
    def kind(self) -> str:
        return "bedrock"

    @property
    def model(self) -> str:
        return self._model

    @property
    def endpoint(self) -> str:
        """The service's `host:port`, without the region where only boto3 knows it."""
        if self._endpoint_url is not None:
            url = urlsplit(self._endpoint_url)
            return f"{url.hostname}:{url.port or (443 if url.scheme == 'https' else 80)}"
        region = self._region or next(filter(None, map(os.environ.get, _REGIONS)), None)
        return ".".join(filter(None, (_SERVICE, region, "amazonaws.com:443")))

    def score(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        return self._score(query, documents, self._max_parallel)

    def score_many(self, requests: Requests) -> list[Scores]:
        """Score several requests side by side; `timeout` holds for each of them."""
        return side_by_side(
            lambda request: self._score(*request, 1 if len(requests) > 1 else self._max_parallel),
            requests,
            self._max_parallel,
        )

    def _score(self, query: str | Query, documents: Sequence[Document], parallel: int) -> Scores:
        deadline = min(time.monotonic() + self._timeout, _context.deadline())
        text, texts = check_texts(query, documents)
        if not texts:
            return Scores((), scale=self.scale)
        truncated = [at for at, document in enumerate(texts) if len(document) > _MAX_CHARACTERS]
        if truncated:
            emit(Truncated(len(truncated)))
        sent = [
            document[:_MAX_CHARACTERS] if document and not document.isspace() else " "
            for document in texts
        ]
        parts = split(Part(0, sent), max_documents=self._max_documents, max_bytes=_MAX_BODY)
        if len(parts) > 1:
            emit(Split(self.endpoint, len(sent), len(parts)))
        scores = side_by_side(lambda part: self._ask(text, part, deadline), parts, parallel)
        return Scores(
            merge_parts(len(sent), parts, scores).values,
            backend=self.name,
            label=self.label,
            model=self._model,
            scale=self.scale,
            truncated=truncated,
        )

    def _ask(self, query: str, part: Part, deadline: float) -> Scores:
        """Score one part in a request, or several if the results come in pages."""
        facts = AttemptFacts()
        call = BoundedCall(max(deadline - time.monotonic(), 0.0))
        with observe_attempt(self.endpoint, len(part.texts), facts):
            request = in_daemon_thread(
                lambda: self._send(query, part.texts, facts, call), name="rerank-bedrock"
            )
            try:
                results = request.result(call.seconds)
            except TimeoutError:
                results = None
            if results is None:
                call.end()
                raise BackendTimeout(f"{self._where}: no complete response in {call.seconds:.3g} s")
            return Scores(self._checked(results, len(part.texts)))

    def _send(
        self, query: str, texts: Sequence[str], facts: AttemptFacts, call: BoundedCall
    ) -> list[dict[str, object]]:
        key = Key(Secret(""), CREDENTIALS_HINT)
        try:
            client = self._client()
            key = client.key()
            with client.sending.within(call):
                return client.rerank(query, texts, facts)
        except RerankError as ours:
            error = ours.with_traceback(None)
        except Exception as foreign:
            if not is_foreign(foreign):
                raise
            error = translated(
                foreign,
                where=self._where,
                key=key,
                texts=[query, *texts],
                seconds=call.seconds,
            )
        raise error  # outside of the handler: the frames of the library hold the request

    def _checked(self, results: Sequence[dict[str, object]], count: int) -> list[float]:
        problem = None
        try:
            scores = decode_results({"results": list(results)}, count)
            return as_probabilities(scores, "and not between 0 and 1")
        except InvalidResponse as invalid:
            problem = str(invalid)
        raise InvalidResponse(f"{self._where}: {problem}")

    @property
    def _where(self) -> str:
        return f"bedrock at {self.endpoint}"

    def _client(self) -> _Client:
        """Return the client of this process: a forked child must not share sockets."""
        process = os.getpid()
        client = self._clients.get(process)
        if client is None:
            with self._lock:
                client = self._clients.get(process) or self._clients.setdefault(
                    process, self._new_client()
                )
        return client

    def _session(self, boto3: Any) -> Any:
        # AWS's other libraries read AWS_REGION, and its services set it; boto3 knows another name.
        region = self._region or os.environ.get("AWS_REGION")
        return boto3.Session(profile_name=self._profile, region_name=region)

    def _new_client(self) -> _Client:
        boto3 = require("boto3", extra=_EXTRA)
        config = require("botocore.config", extra=_EXTRA)
        session = self._session(boto3)
        settings = config.Config(
            connect_timeout=self._connect_timeout,
            read_timeout=self._timeout,
            retries={"total_max_attempts": 1},
            max_pool_connections=100,
        )
        client = session.client(_SERVICE, endpoint_url=self._endpoint_url, config=settings)
        if not hasattr(client, "rerank"):
            raise ConfigError(
                f"boto3 {boto3.__version__} does not know Rerank; run: pip install -U boto3"
            )
        arn = self._model
        if not arn.startswith("arn:"):
            region = client.meta.region_name
            partition = session.get_partition_for_region(region)
            arn = f"arn:{partition}:bedrock:{region}::foundation-model/{self._model}"
        sending = BoundedSending(client, self._where)
        client.meta.events.register(f"before-send.{_SERVICE}.Rerank", sending)
        return _Client(client, arn, session.get_credentials(), sending)

    def describe(self) -> dict[str, object]:
        """Return the service and the settings of its requests; sends nothing."""
        return {
            **super().describe(),
            "kind": self.kind,
            "model": self._model,
            "region": self._region,
            "endpoint": self.endpoint,
            "max_documents": self._max_documents,
            "timeout": self._timeout,
        }

    def check_requirements(self) -> None:
        boto3 = require("boto3", extra=_EXTRA)
        problem = None
        try:
            session = self._session(boto3)
            if not session.region_name:
                problem = "'bedrock' needs a region: set `region`, or AWS_REGION"
            elif not session.get_credentials():
                problem = f"'bedrock' needs credentials: {CREDENTIALS_HINT}"
        except Exception as foreign:
            if not is_foreign(foreign):
                raise
            problem = f"'bedrock' can't be set up: {foreign}"
        if problem:
            raise ConfigError(problem)

    def to_spec(self) -> dict[str, object]:
        names = inspect.signature(type(self)).parameters
        options = changed_options(type(self), {name: getattr(self, f"_{name}") for name in names})
        return {"kind": self.kind, **options}

    def __reduce__(self) -> tuple[object, ...]:
        options = self.to_spec()
        del options["kind"]
        return _build, (options,)

    def close(self) -> None:
        client = self._clients.pop(os.getpid(), None)
        if client is not None:
            client.boto.close()


@dataclass(frozen=True, slots=True)
class _Client:
    """A client of boto3, and what belongs to it."""

    boto: Any = field(repr=False)
    arn: str
    credentials: Any = field(repr=False)
    sending: BoundedSending = field(repr=False)

    def rerank(
        self, query: str, texts: Sequence[str], facts: AttemptFacts
    ) -> list[dict[str, object]]:
        """Return all results of a request, page by page."""
        request: dict[str, Any] = {
            "queries": [{"type": "TEXT", "textQuery": {"text": query}}],
            "sources": [
                {
                    "type": "INLINE",
                    "inlineDocumentSource": {"type": "TEXT", "textDocument": {"text": text}},
                }
                for text in texts
            ],
            "rerankingConfiguration": {
                "type": "BEDROCK_RERANKING_MODEL",
                "bedrockRerankingConfiguration": {
                    "numberOfResults": len(texts),
                    "modelConfiguration": {"modelArn": self.arn},
                },
            },
        }
        results: list[dict[str, object]] = []
        while True:
            page = self.boto.rerank(**request)
            facts.status_code = page["ResponseMetadata"]["HTTPStatusCode"]
            found = page.get("results") or []
            results += [
                {"index": item.get("index"), "relevance_score": item.get("relevanceScore")}
                for item in found
            ]
            # A page without results would never end, and more than there are is an error.
            if not page.get("nextToken") or not found or len(results) > len(texts):
                return results
            request["nextToken"] = page["nextToken"]

    def key(self) -> Key:
        """Return the secrets that were used, to be masked."""
        frozen = self.credentials.get_frozen_credentials() if self.credentials else None
        secrets = [getattr(frozen, name, None) for name in ("secret_key", "token", "access_key")]
        others = tuple(Secret(secret) for secret in secrets if secret)
        return Key(Secret(""), CREDENTIALS_HINT, others)


def _build(options: dict[str, Any]) -> BedrockBackend:
    return BedrockBackend(**options)


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        usable = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        return False
    return bool(usable) and "@" not in url.netloc and not url.query and not url.fragment
