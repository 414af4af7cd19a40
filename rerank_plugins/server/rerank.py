"""A rerank request, from its body to its response."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from rerank_plugins._internal.context import on_behalf_of
from rerank_plugins.backends.scale import to_probability
from rerank_plugins.content import Query
from rerank_plugins.errors import RerankError
from rerank_plugins.ranking import rank
from rerank_plugins.scheduler import estimated_tokens
from rerank_plugins.scores import Scores
from rerank_plugins.server.document_limits import cut_documents, with_cuts
from rerank_plugins.server.errors import APIError, api_error_of
from rerank_plugins.server.lifecycle import Lifecycle
from rerank_plugins.server.paths import route_path
from rerank_plugins.server.responses import (
    TokenCount,
    cohere_response,
    plain_response,
    tei_response,
)
from rerank_plugins.server.schemas import (
    LENGTHS,
    AnyRerankRequest,
    DocumentObject,
    RerankRequest,
    V1RerankRequest,
)
from rerank_plugins.server.settings import ServerSettings
from rerank_plugins.server.shares import TextMemory

__all__ = ["RerankHandler"]

_Body: TypeAlias = RerankRequest | V1RerankRequest | AnyRerankRequest

_MAX_LOGIT = 36.7
"""The logit from which a float can't tell the probability from 1."""


class RerankHandler:
    """Handles rerank requests, within the limits of the settings."""

    def __init__(self, lifecycle: Lifecycle, settings: ServerSettings) -> None:
        self._lifecycle = lifecycle
        self._settings = settings

    async def rerank(self, request: Request, body: RerankRequest) -> Response:
        """Handle a request of Cohere's, Jina's or Xinference's shape."""
        return await self._rerank_cohere(request, body)

    async def rerank_v1(self, request: Request, body: V1RerankRequest) -> Response:
        """Handle a request to `/v1/rerank`; one with `texts` is answered as TEI does."""
        answer = self._rerank_cohere if body.texts is None else self._rerank_tei
        return await answer(request, body)

    async def rerank_any(self, request: Request, body: AnyRerankRequest) -> Response:
        """Handle a request of any shape, and respond in the same."""
        if body.texts is not None:
            return await self._rerank_tei(request, body)
        texts = [_text(document) for document in body.documents or body.candidates or []]
        scores = await self._score(request, body, texts)
        ranked = rank(self._rescale(scores, raw=body.raw), top_n=body.most)
        count = self._count(body, texts, scores)
        model = self._model_name(body)
        if body.is_plain:
            return plain_response(ranked, texts, count, model=model)
        return cohere_response(
            ranked,
            texts,
            scores,
            count,
            model=model,
            version="1",
            return_documents=self._returns_documents(body),
        )

    async def _rerank_cohere(
        self, request: Request, body: RerankRequest | V1RerankRequest
    ) -> Response:
        texts = [_text(document) for document in body.documents or []]
        scores = await self._score(request, body, texts)
        return cohere_response(
            rank(self._rescale(scores, raw=body.raw), top_n=body.most),
            texts,
            scores,
            self._count(body, texts, scores),
            model=self._model_name(body),
            version="2" if route_path(request.scope).startswith("/v2") else "1",
            return_documents=self._returns_documents(body),
        )

    async def _rerank_tei(
        self, request: Request, body: V1RerankRequest | AnyRerankRequest
    ) -> Response:
        texts = body.texts or []
        scores = await self._score(request, body, texts)
        ranked = rank(self._rescale(scores, raw=body.raw), top_n=body.most)
        return_text = bool(body.return_text or body.return_documents)
        return tei_response(ranked, texts, scores, return_text=return_text)

    def _check(self, body: _Body, texts: Sequence[str]) -> None:
        """Check what depends on the settings and the model.

        Raises:
            APIError: the request is too long, names another model, or needs what the model lacks.
        """
        settings = self._settings
        is_tei = not isinstance(body, RerankRequest) and body.texts is not None
        if body.model and not is_tei:  # TEI has one model, and ignores a name
            self._lifecycle.check_model(body.model)
        if len(body.query) > settings.query_characters:
            raise APIError(
                413, "query_too_long", f"a query has {settings.query_characters} characters at most"
            )
        for index, text in enumerate(texts):
            if len(text) > settings.document_characters:
                raise APIError(
                    413,
                    "document_too_long",
                    f"document {index}: {settings.document_characters} characters at most",
                )
        instruction = body.wanted_instruction or ""
        if instruction and not self._lifecycle.backend.instructions:
            raise APIError(
                422, "unsupported", "the server can't follow instructions; leave `instruction` out"
            )
        if len(instruction) > settings.query_characters:
            raise APIError(
                413,
                "query_too_long",
                f"an instruction has {settings.query_characters} characters at most",
            )
        max_length = self._lifecycle.max_length
        for name, none in LENGTHS.items():
            length = getattr(body, name)
            if max_length is not None and length not in (None, none) and length < max_length:
                raise APIError(
                    422,
                    "unsupported",
                    f"{name}: the model cuts at {max_length} tokens, not earlier",
                )
        if body.raw and self._lifecycle.backend.scale == "unknown":
            raise APIError(422, "unsupported", "the scale of the scores is not known")

    async def _score(self, request: Request, body: _Body, texts: Sequence[str]) -> Scores:
        """Return the scores, unless the client disconnects or the time runs out before.

        Raises:
            APIError: there are no scores.
        """
        self._check(body, texts)
        texts, cuts = cut_documents(texts, self._most_tokens(body))
        memory: TextMemory = request.app.state.texts
        try:
            with memory.hold(request.state.client, (body.query, *texts)):
                return with_cuts(await self._scores(request, body, texts), cuts)
        except (RerankError, MemoryError) as error:
            raise api_error_of(error) from error

    async def _scores(self, request: Request, body: _Body, texts: Sequence[str]) -> Scores:
        """Return the scores of a request for whose texts there is memory."""
        with on_behalf_of(request.state.client):
            scores = asyncio.ensure_future(self._lifecycle.scoring().score(_query(body), texts))
        disconnect = asyncio.ensure_future(_wait_for_disconnect(request))
        try:
            await asyncio.wait(
                (scores, disconnect),
                timeout=self._settings.request_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if scores.done():
                self._lifecycle.count_usage(scores.result())
                self._check_cuts(body, scores.result())
                return scores.result()
        finally:
            scores.cancel()
            disconnect.cancel()
        if disconnect.done() and not disconnect.cancelled():
            raise APIError(499, "client_gone", "the client closed the connection")
        raise APIError(504, "timeout", "the scores did not come in time", retry_after=1)

    def _most_tokens(self, body: _Body) -> int | None:
        """Return how many tokens of a document the client wants to be read; None: all."""
        chunks = body.max_chunks_per_doc
        limits = [body.max_tokens_per_doc, chunks and chunks * self._lifecycle.assumed_length]
        return min(filter(None, limits), default=None)

    def _check_cuts(self, body: _Body, scores: Scores) -> None:
        """Refuse what was cut against the client's wish, as TEI does.

        Raises:
            APIError: `truncate` is false, and the model read only a part of a text.
        """
        if body.truncate is not False or not scores.truncated:
            return
        length = self._lifecycle.max_length
        most = "" if length is None else f" of at most {length} tokens"
        raise APIError(
            422,
            "input_too_long",
            f"document {min(scores.truncated)} does not fit into the model's input{most} with the "
            "query, and `truncate` is false; send true, or shorter texts",
        )

    def _rescale(self, scores: Sequence[float], *, raw: bool | None) -> Sequence[float]:
        """Return the scores on the scale of the request."""
        scale = self._lifecycle.backend.scale
        if raw is None or scale in ("similarity", "unknown", "logit" if raw else "probability"):
            return scores
        return [_logit(score) for score in scores] if raw else to_probability(scores)

    def _count(self, body: _Body, texts: Sequence[str], scores: Scores) -> TokenCount:
        if scores.usage is not None and scores.usage.tokens is not None:
            return TokenCount(scores.usage.tokens, estimated=False)
        limit = self._lifecycle.document_tokens
        query = _query(body)
        costs = (estimated_tokens(query, text, limit=limit) for text in texts)
        return TokenCount(sum(costs), estimated=True)

    def _returns_documents(self, body: _Body) -> bool:
        asked = body.return_documents
        return self._settings.return_documents if asked is None else asked

    def _model_name(self, body: _Body) -> str:
        return body.model or self._lifecycle.model_names()[0]


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _query(body: _Body) -> str | Query:
    instruction = body.wanted_instruction
    return body.query if instruction is None else Query(body.query, instruction=instruction)


def _text(document: str | DocumentObject) -> str:
    return document if isinstance(document, str) else document.text


def _logit(probability: float) -> float:
    if probability in (0.0, 1.0):
        return _MAX_LOGIT if probability else -_MAX_LOGIT
    return math.log(probability / (1.0 - probability))
