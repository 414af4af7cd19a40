"""A backend whose concurrent callers share batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future

from rerank_plugins._internal.checks import check_integer, check_number
from rerank_plugins._internal.flow import arun
from rerank_plugins.backend import Backend
from rerank_plugins.content import Document, Query, Requests
from rerank_plugins.errors import ConfigError
from rerank_plugins.scheduler import Scheduler, estimated_tokens
from rerank_plugins.scores import Scores
from rerank_plugins.wrappers._requests import checked_requests
from rerank_plugins.wrappers._steps import aperform
from rerank_plugins.wrappers.base import Flow, Wait, WrapperBackend

__all__ = ["BatchingBackend"]


class BatchingBackend(WrapperBackend):
    """Scores the requests of any number of threads and event loops in shared, fair batches.

    One worker thread calls the wrapped backend's `score_many`, so the wrapped backend is never
    used twice at once. See `rerank_plugins.scheduler.Scheduler` for what is promised. All calls
    that share a batch receive its events, so a trace may show work for other calls.

    Args:
        wrapped: the backend that scores; pointwise, since documents of one request may be
            scored in different batches.
        batch_tokens: the maximum number of tokens in a batch, estimated from the texts' lengths.
        queue_tokens: the maximum number of tokens of a new call and of what is scored before its
            last document. A sync call beyond it raises `BackendOverloaded`; an async call waits.
        batch_seconds: the longest batch, at the speed of the last ones; None looks at the tokens
            alone.
        max_length: the length in tokens at which the wrapped model cuts a pair, where it doesn't
            say how much of a document it reads (`document_tokens`).

    Raises:
        ConfigError: `wrapped` is listwise, or a number is not a positive integer.
    """

    def __init__(
        self,
        wrapped: Backend,
        *,
        batch_tokens: int = 16_384,
        queue_tokens: int = 4_194_304,
        max_length: int = 512,
        batch_seconds: float | None = None,
    ) -> None:
        super().__init__(wrapped)
        if not wrapped.pointwise:
            raise ConfigError(
                f"{wrapped!r} scores a document in view of the others (`pointwise` is False), so "
                "its requests can't share batches"
            )
        check_integer("batch_tokens", batch_tokens)
        check_integer("queue_tokens", queue_tokens)
        check_integer("max_length", max_length)
        check_number("batch_seconds", batch_seconds, above=0, optional=True, unit="seconds")
        self._batch_tokens = batch_tokens
        self._batch_seconds = batch_seconds
        self._queue_tokens = queue_tokens
        self._max_length = max_length
        self._scheduler = Scheduler(
            wrapped.score_many,
            backend=wrapped,
            batch_cost=batch_tokens,
            batch_seconds=batch_seconds,
            queue_cost=queue_tokens,
        )

    @property
    def kind(self) -> str:
        return "batching"

    def flow(self, requests: Requests) -> Flow:
        return self._flow(requests, wait=False)

    async def ascore(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        requests = checked_requests(self, [(query, documents)])
        return (await arun(self._flow(requests, wait=True), aperform))[0]

    def _flow(self, requests: Requests, *, wait: bool) -> Flow:
        futures: list[Future[Scores]] = []
        try:
            for query, documents in requests:
                futures.append(self._submit(query, documents, wait=wait))
            for future in futures:
                yield Wait(future)
        except BaseException:  # also when interrupted: no caller waits for these any more
            for future in futures:
                future.cancel()
            raise
        return [future.result() for future in futures]

    def _submit(
        self, query: str | Query, documents: Sequence[Document], *, wait: bool
    ) -> Future[Scores]:
        if not documents:
            empty: Future[Scores] = Future()
            empty.set_result(Scores((), scale=self.scale))
            return empty
        limit = self.document_tokens or self._max_length
        costs = [estimated_tokens(query, text, limit=limit) for text in documents]
        return self._scheduler.submit(query, documents, costs, wait=wait)

    def describe(self) -> dict[str, object]:
        return {**self.wrapped.describe(), "batching": self._options()}

    def close(self) -> None:
        self._scheduler.close()
        super().close()

    async def aclose(self) -> None:
        await asyncio.to_thread(self._scheduler.close)
        await super().aclose()
