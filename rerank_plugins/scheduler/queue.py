"""The requests that wait for a batch, served by deficit round robin."""

from __future__ import annotations

import math
from collections import deque

from rerank_plugins._internal.cpu import usable_cpus
from rerank_plugins.scheduler.cost import fair_share
from rerank_plugins.scheduler.request import Batch, QueuedRequest

__all__ = ["FairQueue"]


class FairQueue:
    """Holds requests and fills batches with their documents; its callers hold a lock.

    Each round gives every request a `quantum` of cost to spend; what it can't spend it keeps for
    the next round, and a turn that the end of a batch cuts off goes on in the next, unless it had
    the whole batch. A request that a quantum does not finish spends `slice_cost` per round
    instead, where that is less, and has one turn in a batch with others: so these do not wait for
    long.

    A new request waits for the turns of the others while it has its own, and no longer: so it is
    admitted or not by what these cost, however much waits behind. Requests for which there is no
    room wait outside, oldest first.
    """

    def __init__(self, *, quantum: int, most_cost: int, most_pairs: float = math.inf) -> None:
        self.cost = 0
        self.pairs = 0
        self.most_cost = most_cost
        """The maximum cost of a new request and of the turns that it waits for."""
        self.most_pairs = most_pairs
        """The maximum number of its documents and of others, of each request as many as its own."""
        self.longest_wait = math.inf
        """The maximum cost of the turns that a new request waits for."""
        self.slice_cost = quantum
        """What a turn of a large request costs, or a batch of nothing else."""
        self._quantum = quantum
        self._processors = usable_cpus()
        self._active: deque[QueuedRequest] = deque()
        self._outside: deque[QueuedRequest] = deque()

    def __bool__(self) -> bool:
        """Whether a batch can be filled."""
        return bool(self._active)

    @property
    def has_outside(self) -> bool:
        """Whether a request waits for room."""
        return bool(self._outside)

    def cost_before(self, request: QueuedRequest) -> int:
        """Return the most that is scored of others before a new request is done."""
        if request.pending_cost > self._quantum:
            return self.cost
        return sum(min(other.pending_cost, self._turn(other)) for other in self._active)

    def pairs_before(self, request: QueuedRequest) -> int:
        """Return how many documents count against those of a new request."""
        return fair_share((len(other.pending) for other in self._active), len(request.pending))

    def has_room(self, request: QueuedRequest) -> bool:
        """Whether a request may wait here; an empty queue accepts any."""
        own_cost, own_pairs = request.pending_cost, len(request.pending)
        cost, pairs = self.cost, self.pairs
        if not self._fits(cost, own_cost, pairs, own_pairs):  # no need to look at each, mostly
            cost, pairs = self.cost_before(request), self.pairs_before(request)
        return not pairs or self._fits(cost, own_cost, pairs, own_pairs)

    def _fits(self, cost: int, own_cost: int, pairs: int, own_pairs: int) -> bool:
        return (
            cost <= self.longest_wait
            and cost + own_cost <= self.most_cost
            and pairs + own_pairs <= self.most_pairs
        )

    def add(self, request: QueuedRequest) -> None:
        """Admit a request, or let it wait outside behind earlier ones."""
        if self._outside or not self.has_room(request):
            self._outside.append(request)
        else:
            self._admit(request)

    def admit(self) -> None:
        """Admit requests from outside that now fit; forget those that have left."""
        while self._outside:
            request = self._outside[0]
            if request.future.done():
                self._outside.popleft()
            elif self.has_room(request):
                self._admit(self._outside.popleft())
            else:
                break

    def remove(self, request: QueuedRequest) -> None:
        """Remove a request.

        Raises:
            ValueError: it has no document in the queue.
        """
        self._active.remove(request)
        self.cost -= request.pending_cost
        self.pairs -= len(request.pending)

    def fill(self, *, cost: int, pairs: int | None) -> Batch:
        """Remove and return a batch of at most `cost`, or one document that costs more.

        Args:
            cost: the maximum cost of the batch.
            pairs: the maximum number of documents in it; None is as many as `cost` allows.
        """
        taken: dict[QueuedRequest, list[int]] = {}
        budget = cost
        if len(self._active) == 1 and self._active[0].pending_cost > self._quantum:
            budget = min(cost, self._slice(self._active[0]))
        places = self.pairs if pairs is None else pairs
        while self._active and places:
            request = self._active[0]
            next_cost = request.costs[request.pending[-1]]
            if taken and next_cost > budget:
                break  # this request comes first in the next batch
            if request in taken and (len(taken) > 1 or len(self._active) > 1):
                break  # or the others would wait for more than its turn
            self._active.popleft()
            request.deficit += (turn := self._turn(request))
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
                request.deficit -= turn  # which the next batch adds again
                self._active.appendleft(request)
            else:  # a whole batch is as long as a turn gets
                request.deficit = 0
                self._active.append(request)
        return list(taken.items())

    def _turn(self, request: QueuedRequest) -> int:
        """Return what a request may spend per round."""
        if request.pending_cost <= self._quantum:
            return self._quantum
        return min(self._quantum, self._slice(request))

    def _slice(self, request: QueuedRequest) -> int:
        """Return `slice_cost`, or as much as keeps all processors busy."""
        busy = sum(request.costs[index] for index in request.pending[-self._processors :])
        return max(self.slice_cost, busy)

    def _admit(self, request: QueuedRequest) -> None:
        self._active.append(request)
        self.cost += request.pending_cost
        self.pairs += len(request.pending)
