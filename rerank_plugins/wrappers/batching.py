"""A backend whose concurrent callers share batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future

from rerank_plugins._internal.checks import check_integer
from rerank_plugins.backend import Backend
from rerank_plugins.content import Document, Query, Requests, check_texts
from rerank_plugins.errors import ConfigError
from rerank_plugins.scheduler import Scheduler, estimated_tokens
from rerank_plugins.scores import Scores

__all__ = ["BatchingBackend"]


class BatchingBackend(Backend):
    """Scores the requests of any number of threads and event loops in shared, fair batches.

    One worker thread calls the wrapped backend's `score_many`, so the wrapped backend is never
    used twice at once. See `rerank_plugins.scheduler.Scheduler` for what is promised. What happens
    in a batch is told to the hooks of all calls that share it, so traces can't tell whose it is.

    Args:
        wrapped: the backend that scores; pointwise, since documents of one request may be
            scored in different batches.
        batch_tokens: the most tokens in a batch, estimated from the length of the texts.
        queue_tokens: the most tokens that wait. A sync call beyond it raises
            `BackendOverloaded`; an async call waits.
        max_length: the length in tokens at which the wrapped model cuts a pair.

    Raises:
        ConfigError: `wrapped` is listwise, or a number is not positive.
    """

    def __init__(
        self,
        wrapped: Backend,
        *,
        batch_tokens: int = 16_384,
        queue_tokens: int = 4_194_304,
        max_length: int = 512,
    ) -> None:
        if not wrapped.pointwise:
            raise ConfigError(
                f"{wrapped.name!r} scores a document by its neighbours, so its requests can't be "
                "split into shared batches"
            )
        for name, value in (
            ("batch_tokens", batch_tokens),
            ("queue_tokens", queue_tokens),
            ("max_length", max_length),
        ):
            check_integer(name, value)
        self.wrapped = wrapped
        self._limits = {
            "batch_tokens": batch_tokens,
            "queue_tokens": queue_tokens,
            "max_length": max_length,
        }
        self._max_length = max_length
        self._scheduler = Scheduler(
            wrapped.score_many, batch_cost=batch_tokens, queue_cost=queue_tokens
        )
        self.scale = wrapped.scale
        self.cacheable = wrapped.cacheable

    @property
    def name(self) -> str:
        return self.wrapped.name

    def score(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        return self.score_many([(query, documents)])[0]

    def score_many(self, requests: Requests) -> list[Scores]:
        texts = [check_texts(query, documents) for query, documents in requests]
        futures: list[Future[Scores]] = []
        try:
            futures += (self._submitted(query, found, wait=False) for query, found in texts)
            return [future.result() for future in futures]
        except BaseException:  # also when interrupted: what nobody waits for is not scored
            for future in futures:
                future.cancel()
            raise

    async def ascore(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        text, texts = check_texts(query, documents)
        return await asyncio.wrap_future(self._submitted(text, texts, wait=True))

    def _submitted(self, query: str, texts: Sequence[str], *, wait: bool) -> Future[Scores]:
        if not texts:
            done: Future[Scores] = Future()
            done.set_result(Scores((), scale=self.scale))
            return done
        costs = [estimated_tokens(query, text, limit=self._max_length) for text in texts]
        return self._scheduler.submit(query, texts, costs, wait=wait)

    def describe(self) -> dict[str, object]:
        return {**self.wrapped.describe(), "batching": {**self._limits}}

    def close(self) -> None:
        self._scheduler.close()
        self.wrapped.close()

    async def aclose(self) -> None:
        await asyncio.to_thread(self._scheduler.close)
        await self.wrapped.aclose()

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuilt, (self.wrapped, self._limits)


def _rebuilt(wrapped: Backend, limits: dict[str, int]) -> BatchingBackend:
    return BatchingBackend(wrapped, **limits)
