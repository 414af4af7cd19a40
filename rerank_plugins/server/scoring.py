"""How requests reach the backend: in shared batches, or concurrently."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from time import monotonic
from typing import Protocol

from rerank_plugins._internal.context import client, until
from rerank_plugins._internal.parallel import as_error
from rerank_plugins.backend import Backend, ascore_with
from rerank_plugins.content import CheckedDocuments, Document, Query, check_request
from rerank_plugins.errors import BackendOverloaded, DocumentQuarantined
from rerank_plugins.hooks import BatchFinished, Dropped, Hook, outcome_of
from rerank_plugins.hooks._dispatch import Dispatcher, dispatch_to
from rerank_plugins.scheduler import Scheduler, estimated_tokens, fair_share
from rerank_plugins.scores import Scores
from rerank_plugins.server.document_parts import DocumentParts
from rerank_plugins.server.settings import BATCH_SECONDS, ServerSettings
from rerank_plugins.server.turns import Turns

__all__ = ["BatchedScoring", "ConcurrentScoring", "Scoring", "select_scoring"]


_AT_A_SERVER = 100
"""Requests to each other server at once: as many as there are connections."""
_IN_BATCHES = 4096
"""Requests to batches at once, which give the clients turns of their own."""
_AT_A_PROCESS = 2
"""Requests to a process, which scores one after the other, so that it never waits for the next."""
_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""How many threads asyncio has for backends that only block."""


class Scoring(Protocol):
    """Scores requests; the properties tell how many wait."""

    @property
    def queued_pairs(self) -> int:
        """Pairs that wait."""

    @property
    def queued_cost(self) -> int:
        """Estimated tokens that wait."""

    @property
    def batch_cost(self) -> int:
        """The largest batch, in estimated tokens; 0 without batches."""

    def stalled_for(self) -> float:
        """Return for how many seconds the batch in progress has been running."""

    async def score(self, query: str | Query, documents: Sequence[str]) -> Scores:
        """Return one score per document.

        Raises:
            BackendOverloaded: too many pairs wait already.
            BackendError: the backend raised it.
        """

    def close(self) -> None:
        """End the background thread, if there is one."""


class BatchedScoring:
    """Scores the documents of all requests in shared batches, in one thread."""

    def __init__(
        self,
        backend: Backend,
        settings: ServerSettings,
        hooks: Sequence[Hook],
        document_tokens: int,
        length: int,
    ) -> None:
        self._backend = backend
        self._document_tokens = document_tokens
        longest = document_tokens if backend.best_part_counts else length
        self._parts = DocumentParts(length, longest)
        self._scheduler = Scheduler(
            backend.score_many,
            backend=backend,
            batch_cost=settings.batch_tokens,
            batch_pairs=settings.batch_pairs,
            batch_seconds=BATCH_SECONDS,
            queue_cost=settings.queue_tokens,
            queue_pairs=settings.queue_pairs,
            queue_seconds=settings.queue_seconds,
            hooks=hooks,
            name="rerank-server",
        )

    @property
    def queued_pairs(self) -> int:
        return self._scheduler.queued_pairs

    @property
    def queued_cost(self) -> int:
        return self._scheduler.queued_cost

    @property
    def batch_cost(self) -> int:
        return self._scheduler.batch_cost

    def stalled_for(self) -> float:
        return self._scheduler.stalled_for()

    async def score(self, query: str | Query, documents: Sequence[str]) -> Scores:
        query, texts = check_request(query, documents, instructions=self._backend.instructions)
        if not texts:
            return Scores(())
        limit = self._document_tokens
        split = self._parts.split([str(text) for text in texts])  # the server takes text only
        costs = [estimated_tokens(query, text, limit=limit) for text in split.texts]
        parts = CheckedDocuments(query, split.texts)
        try:
            scores = await asyncio.wrap_future(
                self._scheduler.submit(query, parts, costs, wait=False)
            )
        except DocumentQuarantined as error:
            raise split.refusal(error) from error
        return split.join(scores)

    def close(self) -> None:
        self._scheduler.close()


class ConcurrentScoring:
    """Passes each request on as it is, to a remote server or a listwise model.

    The clients take turns in front of a backend that is busy.
    """

    def __init__(self, backend: Backend, settings: ServerSettings, hooks: Sequence[Hook]) -> None:
        self._backend = backend
        self._queue_pairs = settings.queue_pairs
        self._dispatcher = Dispatcher(hooks)
        self._seconds = settings.request_seconds
        self._turns = Turns(_most_at_once(backend))
        self._blocks = _blocks(_first(backend))
        """Whether a thread is at work on each request, which can't be ended."""
        self._in_flight: dict[str | None, list[int]] = {}
        """The number of documents of each request, by client."""
        self.queued_cost = 0
        self.batch_cost = 0

    @property
    def queued_pairs(self) -> int:
        return sum(map(sum, self._in_flight.values()))

    def stalled_for(self) -> float:
        return 0.0

    async def score(self, query: str | Query, documents: Sequence[str]) -> Scores:
        query, texts = check_request(query, documents, instructions=self._backend.instructions)
        if not texts:
            return Scores((), scale=self._backend.scale)
        self._refuse_if_full(len(texts))
        cost = sum(estimated_tokens(query, text, limit=2**31) for text in texts)
        started = monotonic()
        own = self._in_flight.setdefault(client(), [])
        own.append(len(texts))
        self.queued_cost += cost
        try:
            with until(started + self._seconds), dispatch_to([self._dispatcher]):
                scores = await self._in_turn(query, texts)
        except BaseException as raised:
            if _is_cancelled():
                self._dispatcher(Dropped(len(texts)))
                raise
            error = as_error(raised)
            self._dispatcher(
                BatchFinished(len(texts), cost, outcome_of(error), monotonic() - started)
            )
            if error is raised:
                raise
            raise error from raised
        finally:
            own.remove(len(texts))
            if not own:
                del self._in_flight[client()]
            self.queued_cost -= cost
        self._dispatcher(BatchFinished(len(texts), cost, "ok", monotonic() - started))
        return scores

    def close(self) -> None:
        """Do nothing: there is no background thread."""

    async def _in_turn(self, query: str | Query, texts: Sequence[Document]) -> Scores:
        """Score in a turn of this client, which lasts as long as the backend is at work.

        Who sends and leaves would else have threads at work on more and more that nobody wants.
        """
        begun = False

        async def work() -> Scores:
            nonlocal begun
            async with self._turns.turn(client()):
                begun = True
                return await ascore_with(self._backend, query, texts)

        task = asyncio.ensure_future(work())
        try:
            return await asyncio.shield(task)
        finally:
            if not (begun and self._blocks):
                task.cancel()
            task.add_done_callback(_read)

    def _refuse_if_full(self, new: int) -> None:
        own = fair_share(self._in_flight.get(client(), ()), new)
        others = (sum(sizes) for name, sizes in self._in_flight.items() if name != client())
        waiting = own + fair_share(others, own + new)
        if waiting and waiting + new > self._queue_pairs:
            raise BackendOverloaded(
                f"{self.queued_pairs} pairs wait and this request has {new}; the limit is "
                f"{self._queue_pairs}, of each request at most as many as the new one has, and of "
                "each other client as of this one",
                retry_after=1.0,
            )


def _most_at_once(backend: Backend) -> int:
    """Return how many requests a backend works on at once; more would wait in no fair order.

    Of a chain, it is what the first of its backends does.
    """
    first = _first(backend)
    if first.process is not None:
        return _AT_A_PROCESS
    if first.children:
        return _IN_BATCHES
    servers = 1 + (first.endpoint or "").count(",")
    return _THREADS if _blocks(first) else servers * _AT_A_SERVER


def _first(backend: Backend) -> Backend:
    """Return the first backend of a chain that has a process, batches, or no other inside."""
    while backend.children and backend.process is None and backend.kind != "batching":
        backend = backend.children[0]
    return backend


def _blocks(backend: Backend) -> bool:
    """Whether a backend scores in a thread that waits for it."""
    return backend.process is not None or type(backend).ascore is Backend.ascore


def _read(task: asyncio.Task[Scores]) -> None:
    """Read how a task ended that nobody waits for any more, or asyncio would log it."""
    if not task.cancelled():
        task.exception()


def _is_cancelled() -> bool:
    """Whether someone cancelled this task; a backend may raise `CancelledError` by itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def select_scoring(
    backend: Backend,
    settings: ServerSettings,
    hooks: Sequence[Hook],
    *,
    remote: bool,
    document_tokens: int,
    length: int = 512,
) -> Scoring:
    """Return shared batches for one pointwise model on this machine; else concurrent requests.

    A batch may split a request, whose documents one model must score, and all in view of each
    other if the model is listwise.
    """
    has_one_model = all(len(part.children) <= 1 for part in backend.walk())
    if remote or not backend.pointwise or not has_one_model:
        return ConcurrentScoring(backend, settings, hooks)
    return BatchedScoring(backend, settings, hooks, document_tokens, length)
