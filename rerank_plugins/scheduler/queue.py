"""The requests that wait for a batch, served by deficit round robin."""

from __future__ import annotations

from collections import deque

from rerank_plugins.scheduler.request import Batch, QueuedRequest

__all__ = ["FairQueue"]


class FairQueue:
    """Holds requests and fills batches with their documents; its callers hold a lock.

    Each round gives every request a `quantum` of cost to spend; what it can't spend it keeps for
    the next round, and a turn that the end of a batch cuts off goes on in the next, unless it had
    the whole batch. Requests for which there is no room wait outside, oldest first.
    """

    def __init__(self, *, quantum: int) -> None:
        self.cost = 0
        self.pairs = 0
        self._quantum = quantum
        self._active: deque[QueuedRequest] = deque()
        self._outside: deque[QueuedRequest] = deque()

    def __bool__(self) -> bool:
        """Whether a batch can be filled."""
        return bool(self._active)

    @property
    def has_outside(self) -> bool:
        """Whether a request waits for room."""
        return bool(self._outside)

    def has_room(self, cost: int, room: int) -> bool:
        """Whether a request of this cost fits into `room`; an empty queue accepts any."""
        return not self.cost or self.cost + cost <= room

    def add(self, request: QueuedRequest, *, room: int) -> None:
        """Admit a request, or let it wait outside behind earlier ones."""
        if self._outside or not self.has_room(request.pending_cost(), room):
            self._outside.append(request)
        else:
            self._admit(request)

    def admit(self, *, room: int) -> None:
        """Admit requests from outside that now fit; forget those that have left."""
        while self._outside:
            request = self._outside[0]
            if request.future.done():
                self._outside.popleft()
            elif self.has_room(request.pending_cost(), room):
                self._admit(self._outside.popleft())
            else:
                break

    def remove(self, request: QueuedRequest) -> None:
        """Remove a request.

        Raises:
            ValueError: it has no document in the queue.
        """
        self._active.remove(request)
        self.cost -= request.pending_cost()
        self.pairs -= len(request.pending)

    def fill(self, *, cost: int, pairs: int | None) -> Batch:
        """Remove and return a batch of at most `cost`, or one document that costs more.

        Args:
            cost: the maximum cost of the batch.
            pairs: the maximum number of documents in it; None is as many as `cost` allows.
        """
        taken: dict[QueuedRequest, list[int]] = {}
        budget = cost
        places = self.pairs if pairs is None else pairs
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
                spent = sum(request.costs[index] for index in indices)
                budget -= spent
                places -= len(indices)
                self.cost -= spent
                self.pairs -= len(indices)
            if not request.pending:
                continue
            if not request.is_interrupted():
                self._active.append(request)
            elif len(taken) > 1:
                request.deficit -= self._quantum  # which the next batch adds again
                self._active.appendleft(request)
            else:  # a whole batch is as long as a turn gets
                request.deficit = 0
                self._active.append(request)
        return list(taken.items())

    def _admit(self, request: QueuedRequest) -> None:
        self._active.append(request)
        self.cost += request.pending_cost()
        self.pairs += len(request.pending)
