"""One worker thread that scores the documents of many requests in shared, fair batches."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import TypeAlias

from rerank_plugins.backend import check_scores
from rerank_plugins.errors import BackendOverloaded, InvalidResponse

__all__ = ["Scheduler", "estimated_tokens"]

Requests: TypeAlias = Sequence[tuple[str, Sequence[str]]]

_IDLE_SECONDS = 10.0
"""How long the worker waits for work before its thread ends; it starts again on demand."""

_SPECIAL_TOKENS = 4
"""Tokens around the two texts of a pair; so even an empty document costs something."""


def estimated_tokens(query: str, document: str, *, limit: int) -> int:
    """Guess how many tokens a pair has, without tokenising: 4 ASCII characters, or 1 other."""
    return min(limit, _SPECIAL_TOKENS + _text_tokens(query) + _text_tokens(document))


def _text_tokens(text: str) -> int:
    return len(text) // 4 if text.isascii() else len(text)


class _Request:
    """The documents of one caller, and what is known of their scores."""

    __slots__ = ("costs", "deficit", "documents", "future", "pending", "query", "scores", "waiting")

    def __init__(self, query: str, documents: Sequence[str], costs: Sequence[int]) -> None:
        self.query = query
        self.documents = documents
        self.costs = costs
        self.pending = sorted(range(len(documents)), key=costs.__getitem__)  # longest is last
        self.waiting = len(documents)
        self.scores = [0.0] * len(documents)
        self.deficit = 0
        self.future: Future[list[float]] = Future()

    def pending_cost(self) -> int:
        return sum(self.costs[index] for index in self.pending)

    def take(self, budget: int) -> list[int]:
        """Remove and return the longest pending documents that the deficit and budget pay for."""
        taken: list[int] = []
        while self.pending:
            cost = self.costs[self.pending[-1]]
            if cost > self.deficit or cost > budget:
                break
            self.deficit -= cost
            budget -= cost
            taken.append(self.pending.pop())
        return taken

    def take_one(self) -> list[int]:
        """Remove and return the longest pending document, on credit if need be."""
        index = self.pending.pop()
        self.deficit -= self.costs[index]
        return [index]

    def finish(self, indices: Sequence[int], scores: Sequence[float]) -> None:
        for index, score in zip(indices, scores, strict=True):
            self.scores[index] = score
        self.waiting -= len(indices)
        if not self.waiting:
            self._settle(lambda: self.future.set_result(self.scores))

    def fail(self, error: BaseException) -> None:
        self.pending.clear()
        self._settle(lambda: self.future.set_exception(error))

    def _settle(self, settle: Callable[[], None]) -> None:
        with contextlib.suppress(InvalidStateError):  # cancelled, or another part failed first
            settle()


_Batch: TypeAlias = list[tuple[_Request, list[int]]]


class Scheduler:
    """Shares one scoring function between callers in any thread and any event loop.

    Requests wait in a queue while a batch is being scored; the next batch starts as soon as the
    last one ends, never later on purpose. A batch is filled by deficit round robin over the
    requests, in units of cost, so a request of 20 documents overtakes one of 1,000 (Shreedhar
    and Varghese, "Efficient Fair Queueing Using Deficit Round Robin", 1996). Cancelled requests
    cost nothing more once the batch in progress ends, and an error reaches only its request.

    Args:
        run: scores `(query, documents)` requests; called from one thread at a time.
        batch_cost: the most one batch may cost, except for a single document that costs more.
        queue_cost: the most that may wait, except that an empty queue takes any request.
        quantum: what each request may spend per round.
        name: of the worker thread.
    """

    def __init__(
        self,
        run: Callable[[Requests], Sequence[Sequence[float]]],
        *,
        batch_cost: int = 16_384,
        queue_cost: int = 4_194_304,
        quantum: int = 2_048,
        name: str = "rerank-scheduler",
    ) -> None:
        self._run = run
        self._batch_cost = batch_cost
        self._queue_cost = queue_cost
        self._quantum = quantum
        self._name = name
        self._reset()
        _schedulers.add(self)
        _hook_fork()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._active: deque[_Request] = deque()
        self._waiting: deque[_Request] = deque()  # beyond `queue_cost`, oldest first
        self._queued = 0
        self._worker: threading.Thread | None = None
        self._closing = False

    @property
    def queued_cost(self) -> int:
        """Cost of the documents that wait for a batch."""
        return self._queued

    def submit(
        self, query: str, documents: Sequence[str], costs: Sequence[int], *, wait: bool
    ) -> Future[list[float]]:
        """Queue a request; the future gives its scores and may be cancelled at any time.

        Args:
            query: the query.
            documents: its documents; at least one.
            costs: tokens of each pair, counted or estimated.
            wait: whether to wait for room in a full queue.

        Raises:
            BackendOverloaded: the queue is full and `wait` is False.
        """
        request = _Request(query, documents, costs)
        cost = sum(costs)
        with self._changed:
            full = bool(self._queued) and self._queued + cost > self._queue_cost
            if full and not wait:
                raise BackendOverloaded(
                    f"{self._queued} tokens wait to be scored and this request has {cost}; the "
                    f"queue holds {self._queue_cost}. Try again later, or raise its limit"
                )
            if full or self._waiting:
                self._waiting.append(request)
            else:
                self._admit(request)
            if self._worker is None:
                self._closing = False
                self._worker = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._worker.start()
            self._changed.notify()
        return request.future

    def close(self) -> None:
        """Finish what is queued and end the worker; a later `submit` starts it again."""
        with self._changed:
            worker = self._worker
            self._closing = True
            self._changed.notify_all()
        if worker is not None and worker is not threading.current_thread():
            worker.join()

    def _admit(self, request: _Request) -> None:
        self._active.append(request)
        self._queued += request.pending_cost()

    def _work(self) -> None:
        while batch := self._next_batch():
            self._score(batch)
            del batch  # lets go of the callers' texts while waiting

    def _next_batch(self) -> _Batch:
        """Wait for work and return a batch; an empty one ends the worker."""
        with self._changed:
            while True:
                self._drop_finished()
                if self._active:
                    return self._filled()
                idle = self._closing or not self._changed.wait(_IDLE_SECONDS)
                if idle and not self._active and not self._waiting:
                    self._worker = None
                    return []

    def _drop_finished(self) -> None:
        """Forget requests that were cancelled or failed, and admit those that now fit."""
        for request in [item for item in self._active if item.future.done()]:
            self._active.remove(request)
            self._queued -= request.pending_cost()
        while self._waiting:
            request = self._waiting[0]
            if request.future.done():
                self._waiting.popleft()
            elif not self._queued or self._queued + request.pending_cost() <= self._queue_cost:
                self._admit(self._waiting.popleft())
            else:
                break

    def _filled(self) -> _Batch:
        taken: dict[_Request, list[int]] = {}
        budget = self._batch_cost
        while self._active:
            request = self._active[0]
            next_cost = request.costs[request.pending[-1]]
            if next_cost > budget and taken:
                break  # this request comes first in the next batch
            self._active.popleft()
            request.deficit += self._quantum
            # Beyond the budget of an empty batch, it goes alone and pays in later rounds.
            indices = request.take_one() if next_cost > budget else request.take(budget)
            if indices:
                taken.setdefault(request, []).extend(indices)
                cost = sum(request.costs[index] for index in indices)
                budget -= cost
                self._queued -= cost
            if request.pending:
                self._active.append(request)
        return list(taken.items())

    def _score(self, batch: _Batch) -> None:
        """Score a batch; if that fails, each of its requests alone."""
        try:
            found = self._found(batch)
        except BaseException as error:  # noqa: BLE001  # reaches the caller through its future
            if len(batch) == 1:
                batch[0][0].fail(error)
                return
            for part in batch:
                self._score([part])
            return
        for (request, indices), scores in zip(batch, found, strict=True):
            try:
                request.finish(indices, check_scores(scores, len(indices)))
            except InvalidResponse as error:
                request.fail(error)

    def _found(self, batch: _Batch) -> Sequence[Sequence[float]]:
        asked = [
            (request.query, [request.documents[index] for index in indices])
            for request, indices in batch
        ]
        found = self._run(asked)
        if len(found) != len(asked):
            raise InvalidResponse(f"got {len(found)} lists of scores for {len(asked)} requests")
        return found


_schedulers: weakref.WeakSet[Scheduler] = weakref.WeakSet()


@functools.cache
def _hook_fork() -> None:
    """Give a forked child schedulers of its own: threads and locks don't survive a fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_reset_all)


def _reset_all() -> None:
    for scheduler in list(_schedulers):
        scheduler._reset()  # noqa: SLF001  # of this module's own class
