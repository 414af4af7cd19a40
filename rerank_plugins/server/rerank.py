"""One rerank request, from its body to its ranking."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from rerank_plugins.backend import Ranked, rank
from rerank_plugins.errors import RerankError
from rerank_plugins.server import body
from rerank_plugins.server.errors import Problem, problem_of
from rerank_plugins.server.lifecycle import Lifecycle
from rerank_plugins.server.responses import as_cohere, as_plain, as_tei
from rerank_plugins.server.schemas import AnyRerankRequest, DocumentObject, RerankRequest
from rerank_plugins.server.settings import ServerSettings

__all__ = ["Reranker"]

_Asked = TypeVar("_Asked", RerankRequest, AnyRerankRequest)

_FAR = 36.7
"""The logit at which a probability is 1 as far as a float can tell."""


class Reranker:
    """Answers rerank requests, within the limits of the settings."""

    def __init__(self, lifecycle: Lifecycle, settings: ServerSettings) -> None:
        self._lifecycle = lifecycle
        self._settings = settings

    async def by_documents(self, request: Request) -> Response:
        """Answer the shape of Cohere, Jina and Xinference."""
        asked = await self._read(request, RerankRequest)
        texts = [_text(document) for document in asked.documents]
        ranked = await self._ranked(request, asked, texts, top_n=asked.top_n)
        return as_cohere(
            ranked,
            texts,
            model=self._answering(asked),
            version="2" if request.scope["path"].startswith("/v2") else "1",
            repeat=bool(asked.return_documents),
        )

    async def by_shape(self, request: Request) -> Response:
        """Answer the shape that the body has."""
        asked = await self._read(request, AnyRerankRequest)
        if asked.texts is not None:
            ranked = await self._ranked(request, asked, asked.texts, top_n=None)
            return as_tei(ranked, asked.texts, repeat=bool(asked.return_text))
        texts = [_text(document) for document in asked.documents or asked.candidates or []]
        ranked = await self._ranked(request, asked, texts, top_n=asked.top_n or asked.top_k)
        model = self._answering(asked)
        if asked.is_plain:
            return as_plain(ranked, texts, model=model)
        repeat = bool(asked.return_documents)
        return as_cohere(ranked, texts, model=model, version="1", repeat=repeat)

    async def _read(self, request: Request, model: type[_Asked]) -> _Asked:
        settings = self._settings
        raw = await body.read(
            request, most_bytes=settings.body_bytes, seconds=settings.body_seconds
        )
        return body.parse(model, raw, max_documents=settings.max_documents)

    async def _ranked(
        self,
        request: Request,
        asked: RerankRequest | AnyRerankRequest,
        texts: Sequence[str],
        *,
        top_n: int | None,
    ) -> list[Ranked]:
        self._check(asked, texts)
        scores = await self._scored(request, asked.query, texts)
        return rank(self._scaled(scores, raw=asked.raw), top_n=top_n)

    def _check(self, asked: RerankRequest | AnyRerankRequest, texts: Sequence[str]) -> None:
        """Check what depends on the settings and the model.

        Raises:
            Problem: the request is too long, names another model, or asks for what can't be done.
        """
        settings = self._settings
        if asked.model is not None:
            self._lifecycle.check_model(asked.model)
        if len(asked.query) > settings.query_characters:
            raise Problem(
                413, "query_too_long", f"a query has {settings.query_characters} characters at most"
            )
        for index, text in enumerate(texts):
            if len(text) > settings.document_characters:
                raise Problem(
                    413,
                    "document_too_long",
                    f"document {index}: {settings.document_characters} characters at most",
                )
        longest = self._lifecycle.max_length
        wanted = asked.max_tokens_per_doc
        if wanted is not None and longest is not None and wanted < longest:
            raise Problem(
                422, "unsupported", f"max_tokens_per_doc: documents are cut at {longest} tokens"
            )
        if asked.raw is not None and self._lifecycle.backend.scale == "unknown":
            raise Problem(422, "unsupported", "the scale of the scores is not known")

    async def _scored(self, request: Request, query: str, texts: Sequence[str]) -> list[float]:
        """Return the scores, unless the client leaves or the time is up before."""
        scoring = self._lifecycle.scoring()
        work = asyncio.ensure_future(scoring.score(query, texts))
        leaves = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait(
                (work, leaves),
                timeout=self._settings.request_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if work.done():
                return work.result()
        except (RerankError, MemoryError) as error:
            raise problem_of(error) from error
        finally:
            work.cancel()
            leaves.cancel()
        if leaves.done() and not leaves.cancelled():
            raise Problem(499, "client_gone", "the client closed the connection")
        raise Problem(504, "timeout", "the scores did not come in time", retry_after=1)

    def _scaled(self, scores: list[float], *, raw: bool | None) -> list[float]:
        """Return the scores on the scale that was asked for."""
        if raw is None or self._lifecycle.backend.scale == ("logit" if raw else "probability"):
            return scores
        return [_logit(score) if raw else _sigmoid(score) for score in scores]

    def _answering(self, asked: RerankRequest | AnyRerankRequest) -> str:
        return asked.model or self._lifecycle.model_names()[0]


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _text(document: str | DocumentObject) -> str:
    return document if isinstance(document, str) else document.text


def _logit(probability: float) -> float:
    if probability in (0.0, 1.0):
        return _FAR if probability else -_FAR
    return math.log(probability / (1.0 - probability))


def _sigmoid(logit: float) -> float:
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    return math.exp(logit) / (1.0 + math.exp(logit))
