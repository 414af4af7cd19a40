"""The requests that wait for a batch, served by deficit round robin."""

from __future__ import annotations

import math
from collections import deque

from rerank_plugins._internal.cpu import usable_cpus
from rerank_plugins.scheduler.client import Client
from rerank_plugins.scheduler.cost import fair_share
from rerank_plugins.scheduler.request import Batch, QueuedRequest

__all__ = ["FairQueue"]

_LOOKS_OUTSIDE = 16
"""Clients in a row for whose next request there is no room, until the next batch."""


class FairQueue:
    """Holds requests and fills batches with their documents; its callers hold a lock.

    The clients take turns, and in these the requests of each. A turn of a client with several
    requests ends, while others wait, once these have spent a `quantum` of cost, or `slice_cost`
    where that is less.

    Each round gives every request of a client a `quantum` to spend; what it can't spend it keeps
    for the next round, and a turn that the end of a batch cuts off goes on in the next, unless it
    had the whole batch. A request that a quantum does not finish spends `slice_cost` per round
    instead, where that is less, and has one turn in a batch with others: so these do not wait for
    long.

    A new request waits for the turns of the others while it has its own, and no longer: so it is
    admitted or not by what these cost, however much waits behind. So a full queue refuses the
    requests of those who filled it. Requests for which there is no room wait outside, those of each
    client oldest first; the clients take turns there, too.
    """

    def __init__(self, *, quantum: int, most_cost: int, most_pairs: float = math.inf) -> None:
        self.cost = 0
        self.pairs = 0
        self.most_cost = most_cost
        """The maximum cost of a new request and of the turns that it waits for."""
        self.most_pairs = most_pairs
        """The maximum number of its documents and of others, of each request and each client as
        many as its own."""
        self.longest_wait = math.inf
        """The maximum cost of the turns that a new request waits for."""
        self.quantum = quantum
        """What a request may spend per round, if that is all of it."""
        self.slice_cost = quantum
        """What a turn of a large request or of a client costs, or a batch of nothing else."""
        self._processors = usable_cpus()
        self._clients: deque[Client] = deque()
        """Those with a request that waits, in the order of their turns."""
        self._by_name: dict[str | None, Client] = {}
        self._outside: dict[str | None, deque[QueuedRequest]] = {}
        """Those without room, by client, in the order of their turns."""

    def __bool__(self) -> bool:
        """Whether a batch can be filled."""
        return bool(self._clients)

    @property
    def has_outside(self) -> bool:
        """Whether a request waits for room."""
        return bool(self._outside)

    def cost_before(self, request: QueuedRequest) -> int:
        """Return the most that is scored of others before a new request is done."""
        client = self._by_name.get(request.client)
        turns = -(-request.pending_cost // self._turn(request))
        cost = 0
        if client is not None:
            cost = sum(min(each.pending_cost, turns * self._turn(each)) for each in client.requests)
            turns = -(-(cost + request.pending_cost) // self._allowance())
        others = (other for other in self._clients if other is not client)
        return cost + sum(min(other.cost, turns * self._client_turn(other)) for other in others)

    def pairs_before(self, request: QueuedRequest) -> int:
        """Return how many documents count against those of a new request."""
        client = self._by_name.get(request.client)
        own = len(request.pending)
        pairs = 0 if client is None else fair_share((len(r.pending) for r in client.requests), own)
        others = (other.pairs for other in self._clients if other is not client)
        return pairs + fair_share(others, pairs + own)

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
        """Admit a request, or let it wait outside behind earlier ones of its client."""
        if request.client in self._outside or not self.has_room(request):
            self._outside.setdefault(request.client, deque()).append(request)
        else:
            self._admit(request)

    def admit(self) -> None:
        """Admit requests from outside that now fit; forget those that have left."""
        refused = 0
        while self._outside and refused < min(len(self._outside), _LOOKS_OUTSIDE):
            client = next(iter(self._outside))
            waiting = self._outside.pop(client)
            while waiting and waiting[0].future.done():
                waiting.popleft()
            if not waiting:
                continue
            if self.has_room(waiting[0]):
                self._admit(waiting.popleft())
                refused = 0
            else:
                refused += 1
            if waiting:
                self._outside[client] = waiting  # behind the others

    def remove(self, request: QueuedRequest) -> None:
        """Remove a request.

        Raises:
            ValueError: it has no document in the queue.
        """
        client = self._by_name.get(request.client)
        if client is None:
            raise ValueError("the request has no document in the queue")
        client.remove(request)
        self.cost -= request.pending_cost
        self.pairs -= len(request.pending)
        if not client.requests:
            self._clients.remove(client)
            del self._by_name[client.name]

    def fill(self, *, cost: int, pairs: int | None) -> Batch:
        """Remove and return a batch of at most `cost`, or one document that costs more.

        Args:
            cost: the maximum cost of the batch.
            pairs: the maximum number of documents in it; None is as many as `cost` allows.
        """
        taken: dict[QueuedRequest, list[int]] = {}
        budget = cost
        if not self._has_several() and self._is_large(first := self._clients[0].requests[0]):
            budget = min(cost, self._slice(first))
        places = self.pairs if pairs is None else pairs
        while self._clients and places:
            client = self._clients[0]
            request = client.requests[0]
            next_cost = request.costs[request.pending[-1]]
            if taken and next_cost > budget:
                break  # this request comes first in the next batch
            if request in taken and (len(taken) > 1 or self._has_several()):
                break  # or the others would wait for more than its turn
            share = int(min(budget, self._share(client)))
            if client.spent and next_cost > share:
                self._end_turn(client)
                continue
            client.requests.popleft()
            request.deficit += (turn := self._turn(request))
            # Beyond the budget of an empty batch, it goes alone and pays in later rounds.
            indices = request.take_one() if next_cost > budget else request.take(share, places)
            spent = sum(request.costs[index] for index in indices)
            if indices:
                taken.setdefault(request, []).extend(indices)
                budget -= spent
                places -= len(indices)
                self.cost -= spent
                self.pairs -= len(indices)
                client.count(-spent, -len(indices))
                client.spent += spent
            is_over = share < budget and request.is_interrupted()
            if is_over or (request.is_interrupted() and len(taken) > 1):
                request.deficit -= turn  # which its next turn adds again
                client.requests.appendleft(request)
                if is_over:
                    self._end_turn(client)
                continue
            if request.pending:
                if request.is_interrupted():  # a whole batch is as long as a turn gets
                    request.deficit = 0
                client.requests.append(request)
            if request.pending or not client.requests or client.spent >= self._allowance():
                self._end_turn(client)
        return list(taken.items())

    def _end_turn(self, client: Client) -> None:
        """Have a client that is first wait for the others, or forget it if it has no request."""
        self._clients.popleft()
        client.spent = 0
        if client.requests:
            self._clients.append(client)
        else:
            del self._by_name[client.name]

    def _has_several(self) -> bool:
        """Whether more than one request waits."""
        return len(self._clients) > 1 or any(len(each.requests) > 1 for each in self._clients)

    def _allowance(self) -> int:
        """Return what a client with several requests may spend per round."""
        return max(1, min(self.quantum, self.slice_cost))

    def _share(self, client: Client) -> float:
        """Return what is left of a client's turn; at its start, enough for all processors."""
        if len(self._clients) == 1:
            return math.inf
        if client.spent:
            return self._allowance() - client.spent
        if len(client.requests) == 1:
            return math.inf  # as much as any request may spend
        return max(self._allowance(), self._busy(client.requests[0]))

    def _client_turn(self, client: Client) -> int:
        """Return what a client that others wait for spends per round."""
        request = client.requests[0]
        if len(client.requests) == 1:
            return self._turn(request)
        return max(self._allowance(), self._busy(request))

    def _turn(self, request: QueuedRequest) -> int:
        """Return what a request may spend per round."""
        if self._is_large(request):
            return min(self.quantum, self._slice(request))
        return self.quantum

    def _is_large(self, request: QueuedRequest) -> bool:
        """Whether a request is scored in slices."""
        return request.pending_cost > self.quantum

    def _slice(self, request: QueuedRequest) -> int:
        """Return `slice_cost`, or as much as keeps all processors busy."""
        return max(self.slice_cost, self._busy(request))

    def _busy(self, request: QueuedRequest) -> int:
        """Return the cost of as many documents of a request as there are processors."""
        return sum(request.costs[index] for index in request.pending[-self._processors :])

    def _admit(self, request: QueuedRequest) -> None:
        client = self._by_name.get(request.client)
        if client is None:
            client = self._by_name[request.client] = Client(request.client)
            self._clients.append(client)
        client.add(request)
        self.cost += request.pending_cost
        self.pairs += len(request.pending)
