"""Scores batches, and splits those that fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import itemgetter
from time import monotonic
from typing import TypeAlias

from rerank_plugins._internal.parallel import as_error
from rerank_plugins.backend import Backend, as_scores
from rerank_plugins.content import Requests
from rerank_plugins.errors import (
    BackendCrashed,
    BackendOutOfMemory,
    BackendUnavailable,
)
from rerank_plugins.hooks import BatchFinished, BatchShrunk, Dequeued, outcome_of
from rerank_plugins.hooks._dispatch import dispatch_to, emit
from rerank_plugins.scheduler.limit import BatchLimit
from rerank_plugins.scheduler.quarantine import Quarantine, refusal
from rerank_plugins.scheduler.request import Batch
from rerank_plugins.scheduler.suspension import ClientSuspended, Suspensions
from rerank_plugins.scores import Scores, check_results, check_scores

__all__ = ["BatchScorer", "Run"]

Run: TypeAlias = Callable[[Requests], Sequence[Sequence[object]]]
"""Scores `(query, documents)` requests: one sequence of scores for each, in their order."""

_MEMORY_OF_SPEED = 0.2
"""Weight of the last batch in the running average of the speed."""
_DOUBLES_IN = 0.25
"""Seconds of work in which the speed doubles at most: a hundred batches of documents that a cache
knows take no time, and say nothing of the next, which it doesn't."""


class BatchScorer:
    """Gives every request of a batch its scores or its error; used from one thread at a time.

    A batch that fails is halved until the request that breaks it stands alone;
    `BackendUnavailable` fails all of it at once. After `BackendCrashed`, each document of it is
    scored alone if it comes again, and refused once it was alone twice; and its clients share no
    batch for a while, so that the one to blame is found and suspended. When memory runs out, the
    batch is scored in smaller parts, down to single documents. If these fit, the batch was too
    large, and the next ones are smaller; if one doesn't, it is to blame, and not the batch's size.

    Args:
        run: what scores.
        backend: gives the facts of scores that are no `Scores`.
        batch_cost: the maximum cost of the documents of a batch, except for a single one.
    """

    def __init__(self, run: Run, *, backend: Backend | None, batch_cost: int) -> None:
        self.quarantine = Quarantine()
        self.suspensions = Suspensions()
        self._limit = BatchLimit(batch_cost)
        self._run = run
        self._backend = backend
        self.forget()

    def forget(self) -> None:
        """Forget the speed and the batch in progress."""
        self.speed = math.inf
        self._began: float | None = None

    @property
    def batch_cost(self) -> int:
        """The maximum cost of a batch now."""
        return self._limit.cost

    def stalled_for(self) -> float:
        """Return for how many seconds the batch in progress has been running; 0 for none."""
        began = self._began
        return 0.0 if began is None else monotonic() - began

    def score(self, batch: Batch) -> None:
        """Score a batch; if that fails, score parts of it to find the requests that can succeed."""
        self._limit.grow()
        try:
            _emit_waits(batch)
            with dispatch_to(request.dispatcher for request, _ in batch):
                for part in self._apart(batch):
                    self._score_alive(self._allowed(part))
        except BaseException as raised:  # noqa: BLE001  # else the thread ends, and callers hang
            for request, _ in batch:
                request.fail(as_error(raised))
        finally:
            self._began = None

    def _apart(self, batch: Batch) -> list[Batch]:
        """Return a batch without the suspects in it, then theirs, and then each suspect document.

        Those that are likely to end the process come last.
        """
        rest, alone = self._without_suspects(batch)
        shared: Batch = []
        apart: dict[object, tuple[int, Batch]] = {}
        for request, indices in rest:
            danger = self.suspensions.danger(request.client)
            if danger:
                owner = request.client if danger == 1 else request
                apart.setdefault(owner, (danger, []))[1].append((request, indices))
            else:
                shared.append((request, indices))
        parts = [part for _, part in sorted(apart.values(), key=itemgetter(0))]
        alone.sort(key=lambda part: self.suspensions.danger(part[0][0].client))
        return [*([shared] if shared else []), *parts, *alone]

    def _allowed(self, batch: Batch) -> Batch:
        """Return a batch without the requests of clients who are suspended by now."""
        allowed: Batch = []
        for request, indices in batch:
            try:
                self.suspensions.check(request.client)
                allowed.append((request, indices))
            except ClientSuspended as error:
                request.fail(error)
        return allowed

    def _without_suspects(self, batch: Batch) -> tuple[Batch, list[Batch]]:
        """Return a batch without documents that may have ended a process, and each of these."""
        if not self.quarantine.has_suspects:
            return batch, []
        rest: Batch = []
        alone: list[Batch] = []
        for request, indices in batch:
            suspects = self.quarantine.suspects(request.query, request.part(indices))
            marked = list(zip(indices, suspects, strict=True))
            alone += [[(request, [index])] for index, suspect in marked if suspect]
            if others := [index for index, suspect in marked if not suspect]:
                rest.append((request, others))
        return rest, alone

    def _score(self, batch: Batch) -> bool:
        """Score a batch; return whether memory ran out for something that can't be split."""
        pairs = sum(len(indices) for _, indices in batch)
        cost = sum(request.costs[index] for request, indices in batch for index in indices)
        if pairs > 1 and cost > self.batch_cost:  # which has shrunk since it was filled
            return self._score_halves(batch, pairs)
        self._began = began = monotonic()
        try:
            results = self._results(batch)
        except BaseException as raised:  # noqa: BLE001  # reaches the caller through its future
            error = as_error(raised)
            emit(BatchFinished(pairs, cost, outcome_of(error), monotonic() - began))
            return self._recover(batch, error, pairs, cost)
        seconds = monotonic() - began
        self._remember_speed(cost / max(seconds, 1e-6), seconds)
        emit(BatchFinished(pairs, cost, "ok", seconds))
        for (request, indices), scores in zip(batch, results, strict=True):
            if self.quarantine.has_suspects:
                self.quarantine.clear(request.query, request.part(indices))
            try:
                request.finish(indices, self._checked(scores, len(indices)))
            except BaseException as raised:  # noqa: BLE001  # of whatever the scores are made
                error = as_error(raised)
                own_cost = sum(request.costs[index] for index in indices)
                emit(BatchFinished(len(indices), own_cost, outcome_of(error), seconds))
                request.fail(error)
        return False

    def _recover(self, batch: Batch, error: Exception, pairs: int, cost: int) -> bool:
        # A single pair that doesn't fit is no reason for smaller batches.
        is_too_large = isinstance(error, MemoryError) and not isinstance(error, BackendOutOfMemory)
        is_single = pairs == 1 if is_too_large else len(batch) == 1
        if is_single or isinstance(error, BackendUnavailable):
            if isinstance(error, BackendCrashed):
                error = self._blame(batch, error, pairs)
            for request, _ in batch:
                request.fail(error)
            return isinstance(error, MemoryError)
        part_ran_out = self._score_halves(batch, pairs)
        if is_too_large and not part_ran_out and self._limit.shrink(cost // 2):
            emit(BatchShrunk(self.batch_cost))
        return part_ran_out

    def _blame(self, batch: Batch, error: Exception, pairs: int) -> Exception:
        """Record what a process was scoring when it ended; return the error for it."""
        if pairs == 1:
            ((request, (index,)),) = batch
            document = request.documents[index]
            if not any(self.quarantine.suspects(request.query, [document])):
                self.suspensions.blame(request.client)
            if self.quarantine.suspect_alone(request.query, document):
                return refusal(index)
            return error
        for request, indices in batch:
            self.quarantine.suspect(request.query, request.part(indices))
        clients = {request.client for request, _ in batch}
        if len(clients) == 1:
            self.suspensions.blame(*clients)
        else:
            self.suspensions.suspect(clients)
        return error

    def _score_halves(self, batch: Batch, pairs: int) -> bool:
        ran_out = [self._score_alive(part) for part in _halves(batch, pairs)]
        return any(ran_out)

    def _score_alive(self, batch: Batch) -> bool:
        alive = [(request, indices) for request, indices in batch if not request.future.done()]
        return bool(alive) and self._score(alive)

    def _remember_speed(self, speed: float, seconds: float) -> None:
        last = speed if self.speed == math.inf else self.speed
        average = last + _MEMORY_OF_SPEED * (speed - last)
        self.speed = min(average, last * 2 ** min(seconds / _DOUBLES_IN, 1))

    def _checked(self, scores: Sequence[object], count: int) -> Scores:
        if self._backend is not None:
            return as_scores(scores, count, self._backend)
        values = check_scores(scores, count)
        return scores if isinstance(scores, Scores) else Scores(values)

    def _results(self, batch: Batch) -> Sequence[Sequence[object]]:
        requests = [(request.query, request.part(indices)) for request, indices in batch]
        return check_results(self._run(requests), len(requests))


def _emit_waits(batch: Batch) -> None:
    now = monotonic()
    for request, _ in batch:
        if request.submitted is not None and request.dispatcher is not None:
            request.dispatcher(Dequeued(now - request.submitted))
        request.submitted = None


def _halves(batch: Batch, pairs: int) -> tuple[Batch, Batch]:
    """Split a batch between two requests, or within its only one."""
    if len(batch) == 1:
        ((request, indices),) = batch
        return [(request, indices[: pairs // 2])], [(request, indices[pairs // 2 :])]
    return batch[: len(batch) // 2], batch[len(batch) // 2 :]
