"""Who is told what a scheduler does."""

from __future__ import annotations

__all__ = ["Observer"]


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
