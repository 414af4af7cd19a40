"""What all clients share, so that none of them takes all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from sys import getsizeof
from typing import NamedTuple

from rerank_plugins.errors import BackendOverloaded

__all__ = ["Places", "RequestsInProgress", "TextMemory", "may_have_more"]

_TIMES_FREE = 7


def may_have_more(own: int, free: int) -> bool:
    """Whether a client that has so much may have more while so much is free.

    It may have seven times what is free: alone seven eighths of all, and with another one seven
    fifteenths. So however many take what they can, something is left for the next one (Choudhury
    and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", 1998).
    """
    return own < _TIMES_FREE * free


class Places(NamedTuple):
    """The places for requests in progress."""

    most: int
    free: int


class RequestsInProgress:
    """Counts the requests of each client whose bodies are there, and that have no response yet.

    A body that still arrives takes no place: whoever sends many of them slowly would otherwise keep
    all others of its address out. Its connection is the first to be closed for others instead.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def __getitem__(self, client: str) -> int:
        return self._counts[client]

    def __len__(self) -> int:
        return len(self._counts)

    def may_add(self, client: str, most: int) -> bool:
        """Whether a client may have one more, where there are so many places for all."""
        return may_have_more(self._counts[client], most - self._counts.total())

    def add(self, client: str) -> None:
        """Count a request."""
        self._counts[client] += 1

    def remove(self, client: str) -> None:
        """Count a request no more."""
        _subtract(self._counts, client, 1)


class TextMemory:
    """The memory for the texts of requests that wait for their scores.

    Their bodies are bounded while they arrive, and the queue by tokens or documents; but a text of
    which the model reads the beginning is kept whole, and takes up to four times its body.

    Args:
        most: bytes for all requests together; the only one may take more.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[str] = Counter()
        self.held_bytes = 0

    @contextmanager
    def hold(self, client: str, texts: Iterable[str]) -> Iterator[None]:
        """Hold the texts of a request, as long as the block lasts.

        Raises:
            BackendOverloaded: there is no memory for them.
        """
        size = sum(map(getsizeof, texts))
        free = self._most - self.held_bytes
        fits = size <= free and may_have_more(self._held[client], free)
        if self.held_bytes and not fits:
            raise BackendOverloaded(
                f"the texts that wait for their scores take {self.held_bytes} bytes",
                retry_after=1.0,
            )
        self._held[client] += size
        self.held_bytes += size
        try:
            yield
        finally:
            self.held_bytes -= size
            _subtract(self._held, client, size)


def _subtract(counts: Counter[str], client: str, number: int) -> None:
    counts[client] -= number
    if not counts[client]:
        del counts[client]
