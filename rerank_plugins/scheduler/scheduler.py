"""One worker thread that scores the documents of many requests in shared, fair batches."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future

from rerank_plugins._internal.context import client
from rerank_plugins._internal.locks import ForkSafeCondition, reset_in_forked_child
from rerank_plugins.backend import Backend
from rerank_plugins.content import Document, Query
from rerank_plugins.errors import BackendOverloaded
from rerank_plugins.hooks import Dropped, Hook
from rerank_plugins.hooks._dispatch import Dispatcher, dispatcher, merged
from rerank_plugins.scheduler.batch import BatchScorer, Run
from rerank_plugins.scheduler.queue import FairQueue
from rerank_plugins.scheduler.request import Batch, QueuedRequest
from rerank_plugins.scores import Scores

__all__ = ["Scheduler"]

_IDLE_SECONDS = 10.0
"""How long the worker waits for work before its thread ends; it starts again on demand."""
_SLICE_SECONDS = 0.1
"""How long a slice of a large request takes: what the next request waits for, at most."""
_LEAST_BATCH_SHARE = 16
"""Where small batches take as long as large ones, batches must not shrink for ever."""


class Scheduler:
    """Shares one scoring function between callers in any thread and any event loop.

    Requests wait in a queue while a batch is being scored; the next batch starts as soon as the
    last one ends, never later on purpose. A batch is filled by deficit round robin over the
    requests, in units of cost, so a request of 20 documents overtakes one of 1,000 (Shreedhar
    and Varghese, "Efficient Fair Queueing Using Deficit Round Robin", 1996). The clients of a
    server take turns first, and then the requests of each: one that sends many leaves the others
    their share, and is the first to meet a full queue. A large request is
    scored in slices of about a tenth of a second, so those that come meanwhile wait for one slice,
    and none is refused for what a large one has to wait for. Cancelled requests cost nothing more
    once the batch in progress ends.

    A batch that fails is halved until the request that breaks it stands alone, and only that one
    fails; `BackendUnavailable` fails all of a batch at once, since no request is to blame. After
    `BackendCrashed` the documents of the batch are scored alone if they come again; one that
    crashes the backend alone, twice, is refused from then on, for ten minutes. A client whose
    documents crash it, others each time, is suspended for a while if there are other clients. When
    memory runs out (`MemoryError`), the batch is scored in smaller parts, down to single documents;
    if these fit, later batches are smaller for a while (see `BatchLimit`).

    Args:
        run: scores `(query, documents)` requests; called from one thread at a time.
        backend: gives the facts, such as its name, of scores that `run` returns without any.
        batch_cost: the maximum cost of a batch, except for a single document that costs more.
        batch_pairs: the maximum number of documents in a batch; None is no limit but `batch_cost`.
        batch_seconds: the longest batch, at the speed of the last ones; it has a sixteenth of
            `batch_cost` at least. None looks at the cost alone.
        queue_cost: the maximum cost of a new request and of what is scored before its last
            document; an empty queue accepts any request.
        queue_pairs: the maximum number of its documents and of those that wait, of each request at
            most as many as its own, and of each other client as of this one; None is no limit but
            `queue_cost`.
        queue_seconds: the longest wait for the others, at the speed of the last batches; None looks
            at the cost alone.
        quantum: what each request may spend per round; as much as the usual request costs, or it
            waits for several rounds.
        hooks: receive the events of all requests; the hooks of a call receive those of its own.
        name: of the worker thread.
    """

    def __init__(
        self,
        run: Run,
        *,
        backend: Backend | None = None,
        batch_cost: int = 16_384,
        batch_pairs: int | None = None,
        batch_seconds: float | None = None,
        queue_cost: int = 4_194_304,
        queue_pairs: int | None = None,
        queue_seconds: float | None = None,
        quantum: int = 8_192,
        hooks: Sequence[Hook] = (),
        name: str = "rerank-scheduler",
    ) -> None:
        self._dispatcher = Dispatcher(hooks) if hooks else None
        self._scorer = BatchScorer(run, backend=backend, batch_cost=batch_cost)
        self._batch_pairs = batch_pairs
        self._batch_seconds = batch_seconds
        self._least_batch = batch_cost // _LEAST_BATCH_SHARE
        self._queue_cost = queue_cost
        self._queue_pairs = math.inf if queue_pairs is None else queue_pairs
        self._queue_seconds = queue_seconds
        self._quantum = quantum
        self._name = name
        self._reset()
        reset_in_forked_child(self)

    def reset_after_fork(self) -> None:
        """Start anew in a forked child, which has neither the worker nor its requests."""
        self._reset()

    def _reset(self) -> None:
        self._changed = ForkSafeCondition()
        self._queue = FairQueue(
            quantum=self._quantum, most_cost=self._queue_cost, most_pairs=self._queue_pairs
        )
        self._scorer.forget()
        self._worker: threading.Thread | None = None
        self._closing = False

    @property
    def queued_cost(self) -> int:
        """Cost of the documents that wait for a batch."""
        return self._queue.cost

    @property
    def queued_pairs(self) -> int:
        """How many documents wait for a batch."""
        return self._queue.pairs

    @property
    def batch_cost(self) -> int:
        """The maximum cost of a batch now."""
        return self._scorer.batch_cost

    def stalled_for(self) -> float:
        """Return for how many seconds the batch in progress has been running; 0 for none."""
        return self._scorer.stalled_for()

    def submit(
        self,
        query: str | Query,
        documents: Sequence[Document],
        costs: Sequence[int],
        *,
        wait: bool,
    ) -> Future[Scores]:
        """Queue a request; the future gives its scores and may be cancelled at any time.

        Args:
            query: the query.
            documents: its documents, checked; at least one.
            costs: tokens of each pair, counted or estimated.
            wait: whether to wait for room in a full queue.

        Raises:
            DocumentQuarantined: one of the documents ended the process of the model three times.
            ClientSuspended: documents of this client ended it more than once.
            BackendOverloaded: the queue is full and `wait` is False; `retry_after` is an estimate.
        """
        self._scorer.suspensions.arrive(client())
        self._scorer.quarantine.check(query, documents)
        request = QueuedRequest(
            query, documents, costs, merged((dispatcher(), self._dispatcher)), client()
        )
        with self._changed:
            self._set_pace()
            if not wait:
                self._refuse_if_full(request)
            if self._worker is None:
                self._closing = False
                worker = threading.Thread(target=self._work, name=self._name, daemon=True)
                worker.start()  # may fail when memory is short: then nothing is queued
                self._worker = worker
            self._queue.add(request)
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

    def _leave(self, request: QueuedRequest | None) -> None:
        """Remove a request that is done from the queue, if it is still there."""
        if request is None:
            return
        try:
            with self._changed:
                self._queue.remove(request)
        except ValueError:
            return
        if request.dispatcher is not None:
            request.dispatcher(Dropped(len(request.pending)))

    def _set_pace(self) -> None:
        """Tell the queue how long a slice and a wait may be, at the speed of the last batches."""
        speed = self._scorer.speed
        if speed == math.inf:
            return
        self._queue.slice_cost = int(speed * _SLICE_SECONDS)
        if self._batch_seconds is not None:
            self._queue.quantum = min(self._quantum, self._next_cost())
        if self._queue_seconds is not None:
            self._queue.longest_wait = speed * self._queue_seconds

    def _next_cost(self) -> int:
        """Return the maximum cost of the next batch, for which those that come meanwhile wait."""
        if self._batch_seconds is None:
            return self.batch_cost
        if self._scorer.speed == math.inf:  # a slow model would take minutes for a full one
            return min(self.batch_cost, self._least_batch)
        in_time = self._scorer.speed * self._batch_seconds
        return int(min(self.batch_cost, max(in_time, self._least_batch)))

    def _refuse_if_full(self, request: QueuedRequest) -> None:
        queue = self._queue
        if queue.has_room(request):
            return
        own, before = request.pending_cost, queue.cost_before(request)
        room = min(queue.most_cost - own, queue.longest_wait)
        raise BackendOverloaded(
            f"{queue.cost} tokens of {queue.pairs} documents wait to be scored, and this request "
            f"has {own} of {len(request.pending)}: too much for the queue. Try again later, or "
            "raise its limits",
            retry_after=max(1.0, (before - room) / self._scorer.speed),
        )

    def _work(self) -> None:
        while batch := self._next_batch():
            self._scorer.score(batch)
            del batch  # lets go of the callers' texts while waiting

    def _next_batch(self) -> Batch:
        """Wait for work and return a batch; an empty one ends the worker."""
        with self._changed:
            while True:
                self._set_pace()
                self._queue.admit()
                if self._queue:
                    return self._queue.fill(cost=self._next_cost(), pairs=self._batch_pairs)
                idle = self._closing or not self._changed.wait(_IDLE_SECONDS)
                if idle and not self._queue and not self._queue.has_outside:
                    self._worker = None
                    return []
