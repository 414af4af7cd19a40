"""One worker thread that scores the documents of many requests in shared, fair batches."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from time import monotonic
from typing import TypeAlias

from rerank_plugins.backend import check_scores
from rerank_plugins.errors import (
    BackendOutOfMemory,
    BackendOverloaded,
    BackendUnavailable,
    InvalidResponse,
)

__all__ = ["Observer", "Scheduler", "estimated_tokens"]

Requests: TypeAlias = Sequence[tuple[str, Sequence[str]]]

_IDLE_SECONDS = 10.0
"""How long the worker waits for work before its thread ends; it starts again on demand."""

_MEMORY_OF_SPEED = 0.2
"""Weight of the last batch in the running average of the speed."""

_SPECIAL_TOKENS = 4
"""Tokens around the two texts of a pair; so even an empty document costs something."""


def estimated_tokens(query: str, document: str, *, limit: int) -> int:
    """Guess how many tokens a pair has, without tokenising: 4 ASCII characters, or 1 other."""
    return min(limit, _SPECIAL_TOKENS + _text_tokens(query) + _text_tokens(document))


def _text_tokens(text: str) -> int:
    return len(text) // 4 if text.isascii() else len(text)


class _Request:
    """The documents of one caller, and what is known of their scores."""

    __slots__ = (
        "__weakref__",
        "costs",
        "deficit",
        "documents",
        "future",
        "pending",
        "query",
        "scores",
        "submitted",
        "waiting",
    )

    def __init__(self, query: str, documents: Sequence[str], costs: Sequence[int]) -> None:
        self.query = query
        self.documents = documents
        self.costs = costs
        self.pending = sorted(range(len(documents)), key=costs.__getitem__)  # longest is last
        self.waiting = len(documents)
        self.scores = [0.0] * len(documents)
        self.deficit = 0
        self.submitted: float | None = monotonic()  # None once a batch has begun
        self.future: Future[list[float]] = Future()

    def pending_cost(self) -> int:
        return sum(self.costs[index] for index in self.pending)

    def take(self, budget: int, most: int) -> list[int]:
        """Remove and return the longest pending documents that the deficit and budget pay for."""
        taken: list[int] = []
        while self.pending and len(taken) < most:
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
        self._settle(lambda: self.future.set_exception(error))

    def _settle(self, settle: Callable[[], None]) -> None:
        with contextlib.suppress(InvalidStateError):  # cancelled, or another part failed first
            settle()


_Batch: TypeAlias = list[tuple[_Request, list[int]]]


class Observer:
    """Is told what a scheduler does, in its worker thread; override what you want to know."""

    def waited(self, seconds: float) -> None:
        """The first documents of a request leave the queue, after `seconds`."""

    def scored(self, pairs: int, cost: int, seconds: float) -> None:
        """A batch was scored."""

    def failed(self, error: BaseException, pairs: int) -> None:
        """A batch, or a part of one that was split, was not scored."""

    def shrunk(self, batch_cost: int) -> None:
        """Memory ran out; from now on a batch costs at most `batch_cost`."""

    def cancelled(self, pairs: int) -> None:
        """So many queued documents will not be scored: their request was given up or failed."""


class Scheduler:
    """Shares one scoring function between callers in any thread and any event loop.

    Requests wait in a queue while a batch is being scored; the next batch starts as soon as the
    last one ends, never later on purpose. A batch is filled by deficit round robin over the
    requests, in units of cost, so a request of 20 documents overtakes one of 1,000 (Shreedhar
    and Varghese, "Efficient Fair Queueing Using Deficit Round Robin", 1996). Cancelled requests
    cost nothing more once the batch in progress ends.

    A batch that fails is halved until the request that breaks it stands alone, and only that one
    fails; `BackendUnavailable` fails all of a batch at once, since no request is to blame. When
    memory runs out (`MemoryError`), `batch_cost` is halved for good, and the batch is scored in
    smaller parts, down to single documents.

    Args:
        run: scores `(query, documents)` requests; called from one thread at a time.
        batch_cost: the most one batch may cost, except for a single document that costs more.
        batch_pairs: the most documents in one batch; None is as many as `batch_cost` allows.
        queue_cost: the most that may wait, except that an empty queue takes any request.
        queue_seconds: the longest wait, at the speed of the last batches, that a new request may
            meet; like `queue_cost`. None looks at the cost alone.
        quantum: what each request may spend per round.
        observer: is told what happens.
        name: of the worker thread.
    """

    def __init__(
        self,
        run: Callable[[Requests], Sequence[Sequence[float]]],
        *,
        batch_cost: int = 16_384,
        batch_pairs: int | None = None,
        queue_cost: int = 4_194_304,
        queue_seconds: float | None = None,
        quantum: int = 2_048,
        observer: Observer | None = None,
        name: str = "rerank-scheduler",
    ) -> None:
        self._run = run
        self._batch_cost = batch_cost
        self._batch_pairs = batch_pairs
        self._queue_cost = queue_cost
        self._queue_seconds = queue_seconds
        self._quantum = quantum
        self._observer = observer or Observer()
        self._name = name
        self._reset()
        _schedulers.add(self)
        _hook_fork()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._active: deque[_Request] = deque()
        self._waiting: deque[_Request] = deque()  # beyond `queue_cost`, oldest first
        self._queued = 0
        self._queued_pairs = 0
        self._speed = math.inf  # cost per second
        self._batch_began: float | None = None
        self._worker: threading.Thread | None = None
        self._closing = False

    @property
    def queued_cost(self) -> int:
        """Cost of the documents that wait for a batch."""
        return self._queued

    @property
    def queued_pairs(self) -> int:
        """How many documents wait for a batch."""
        return self._queued_pairs

    @property
    def batch_cost(self) -> int:
        """The most that one batch may cost now."""
        return self._batch_cost

    def stalled_for(self) -> float:
        """Return for how many seconds the batch in progress has been running; 0 for none."""
        began = self._batch_began
        return 0.0 if began is None else monotonic() - began

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
            BackendOverloaded: the queue is full and `wait` is False; `retry_after` is an estimate.
        """
        request = _Request(query, documents, costs)
        cost = sum(costs)
        with self._changed:
            room = self._room()
            full = bool(self._queued) and self._queued + cost > room
            if full and not wait:
                raise BackendOverloaded(
                    f"{self._queued} tokens wait to be scored and this request has {cost}; the "
                    f"queue holds {room}. Try again later, or raise its limit",
                    retry_after=max(1.0, (self._queued + cost - room) / self._speed),
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
        reference = weakref.ref(request)  # a strong one would be a cycle that holds its texts
        request.future.add_done_callback(lambda _: self._leave(reference()))
        return request.future

    def close(self) -> None:
        """Finish what is queued and end the worker; a later `submit` starts it again."""
        with self._changed:
            worker = self._worker
            self._closing = True
            self._changed.notify_all()
        if worker is not None and worker is not threading.current_thread():
            worker.join()

    def _leave(self, request: _Request | None) -> None:
        """Take a request that is over out of the queue, if it is still there."""
        with self._changed, contextlib.suppress(ValueError):
            if request is None:
                return
            self._active.remove(request)
            self._queued -= request.pending_cost()
            self._queued_pairs -= len(request.pending)
            self._observer.cancelled(len(request.pending))

    def _room(self) -> int:
        """Return the most that may wait."""
        if self._queue_seconds is None or self._speed == math.inf:
            return self._queue_cost
        return min(self._queue_cost, int(self._queue_seconds * self._speed))

    def _admit(self, request: _Request) -> None:
        self._active.append(request)
        self._queued += request.pending_cost()
        self._queued_pairs += len(request.pending)

    def _work(self) -> None:
        while batch := self._next_batch():
            for request, _ in batch:
                if request.submitted is not None:
                    self._observer.waited(monotonic() - request.submitted)
                    request.submitted = None
            self._score(batch)
            self._batch_began = None
            del batch, request  # lets go of the callers' texts while waiting

    def _next_batch(self) -> _Batch:
        """Wait for work and return a batch; an empty one ends the worker."""
        with self._changed:
            while True:
                self._admit_waiting()
                if self._active:
                    return self._filled()
                idle = self._closing or not self._changed.wait(_IDLE_SECONDS)
                if idle and not self._active and not self._waiting:
                    self._worker = None
                    return []

    def _admit_waiting(self) -> None:
        """Admit those who wait for room and now find it."""
        while self._waiting:
            request = self._waiting[0]
            if request.future.done():
                self._waiting.popleft()
            elif not self._queued or self._queued + request.pending_cost() <= self._room():
                self._admit(self._waiting.popleft())
            else:
                break

    def _filled(self) -> _Batch:
        taken: dict[_Request, list[int]] = {}
        budget = self._batch_cost
        places = self._queued_pairs if self._batch_pairs is None else self._batch_pairs
        while self._active and places:
            request = self._active[0]
            next_cost = request.costs[request.pending[-1]]
            if next_cost > budget and taken:
                break  # this request comes first in the next batch
            self._active.popleft()
            request.deficit += self._quantum
            # Beyond the budget of an empty batch, it goes alone and pays in later rounds.
            indices = request.take_one() if next_cost > budget else request.take(budget, places)
            if indices:
                taken.setdefault(request, []).extend(indices)
                cost = sum(request.costs[index] for index in indices)
                budget -= cost
                places -= len(indices)
                self._queued -= cost
                self._queued_pairs -= len(indices)
            if request.pending:
                self._active.append(request)
        return list(taken.items())

    def _score(self, batch: _Batch) -> None:
        """Score a batch; if that fails, do what can still be done for each of its requests."""
        pairs = sum(len(indices) for _, indices in batch)
        cost = sum(request.costs[index] for request, indices in batch for index in indices)
        if pairs > 1 and cost > self._batch_cost:  # which has shrunk since it was filled
            self._score_halves(batch, pairs)
            return
        self._batch_began = began = monotonic()
        try:
            found = self._found(batch)
        except BaseException as error:  # noqa: BLE001  # reaches the caller through its future
            self._observer.failed(error, pairs)
            self._recover(batch, error, pairs, cost)
            return
        seconds = monotonic() - began
        self._remember_speed(cost / max(seconds, 1e-6))
        self._observer.scored(pairs, cost, seconds)
        for (request, indices), scores in zip(batch, found, strict=True):
            try:
                request.finish(indices, check_scores(scores, len(indices)))
            except InvalidResponse as error:
                self._observer.failed(error, len(indices))
                request.fail(error)

    def _recover(self, batch: _Batch, error: BaseException, pairs: int, cost: int) -> None:
        # Smaller batches don't help a pair that is too large by itself: it is found and fails.
        shrinks = isinstance(error, MemoryError) and not isinstance(error, BackendOutOfMemory)
        if shrinks and pairs > 1:
            self._batch_cost = max(1, cost // 2)
            self._observer.shrunk(self._batch_cost)
        elif len(batch) == 1 or isinstance(error, BackendUnavailable):
            for request, _ in batch:
                request.fail(error)
            return
        self._score_halves(batch, pairs)

    def _score_halves(self, batch: _Batch, pairs: int) -> None:
        for part in _halves(batch, pairs):
            alive = [(request, indices) for request, indices in part if not request.future.done()]
            if alive:
                self._score(alive)

    def _remember_speed(self, speed: float) -> None:
        last = speed if self._speed == math.inf else self._speed
        self._speed = last + _MEMORY_OF_SPEED * (speed - last)

    def _found(self, batch: _Batch) -> Sequence[Sequence[float]]:
        asked = [
            (request.query, [request.documents[index] for index in indices])
            for request, indices in batch
        ]
        found = self._run(asked)
        if len(found) != len(asked):
            raise InvalidResponse(f"got {len(found)} lists of scores for {len(asked)} requests")
        return found


def _halves(batch: _Batch, pairs: int) -> tuple[_Batch, _Batch]:
    """Split a batch between two requests, or within its only one."""
    if len(batch) == 1:
        ((request, indices),) = batch
        return [(request, indices[: pairs // 2])], [(request, indices[pairs // 2 :])]
    return batch[: len(batch) // 2], batch[len(batch) // 2 :]


_schedulers: weakref.WeakSet[Scheduler] = weakref.WeakSet()


@functools.cache
def _hook_fork() -> None:
    """Give a forked child schedulers of its own: threads and locks don't survive a fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_reset_all)


def _reset_all() -> None:
    for scheduler in list(_schedulers):
        scheduler._reset()  # noqa: SLF001  # of this module's own class
