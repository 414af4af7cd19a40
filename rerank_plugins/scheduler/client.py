"""The requests of one client that wait for a batch, in the order of their turns."""

from __future__ import annotations

from collections import deque

from rerank_plugins.scheduler.request import QueuedRequest

__all__ = ["Client"]


class Client:
    """The requests of one client; all the others of the queue are strangers to it.

    Args:
        name: identifies the client; None stands for those that nobody tells apart.
    """

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.requests: deque[QueuedRequest] = deque()
        self.cost = 0
        self.pairs = 0
        self.spent = 0
        """What has been spent of the turn that it has."""

    def add(self, request: QueuedRequest) -> None:
        self.requests.append(request)
        self.count(request.pending_cost, len(request.pending))

    def remove(self, request: QueuedRequest) -> None:
        """Remove a request.

        Raises:
            ValueError: it has no document here.
        """
        self.requests.remove(request)
        self.count(-request.pending_cost, -len(request.pending))

    def count(self, cost: int, pairs: int) -> None:
        """Note that more waits, or less."""
        self.cost += cost
        self.pairs += pairs
