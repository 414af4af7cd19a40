"""All connections of a server: how many there may be, what they may hold, and which go first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum
from itertools import islice
from typing import Protocol

from rerank_plugins.server.shares import Places

__all__ = ["Connections", "Member", "State", "spare_connections"]

_SPARE_SHARE, _LEAST_SPARE = 64, 8

_MOST_LOOKS = 32
"""How many connections of each kind are looked at to find the one to close."""


class State(Enum):
    """What a connection waits for; each has a clock and a byte budget (`connections.py`)."""

    IDLE = "the next request"
    ENDING = "the client to close, after the last response"
    HEAD = "the rest of a request's head"
    BODY = "the rest of a request's body"
    WRITING = "the client to read the response"
    SERVING = "the application"


class Member(Protocol):
    """A connection, as seen from here."""

    @property
    def owner(self) -> str | None:
        """Whose it is, by its address; None if that stands for many, as a proxy's does."""

    def evict(self) -> None:
        """Close at once: another connection needs the place."""

    def has_input(self) -> bool:
        """Whether something came that has not been read: then it waits for us, not its client."""


def spare_connections(most: int) -> int:
    """Return how many connections there may be beside those whose requests are served.

    They wait for clients, and let probes through when everything else is busy.
    """
    return max(_LEAST_SPARE, most // _SPARE_SHARE)


class Connections:
    """Keeps count of all connections, and closes the longest waiting for those that come.

    An attacker's connections wait for seconds, those of others for milliseconds; so a flood of
    connections that send or read slowly, or not at all, mostly pushes out itself. Of those that
    have waited longest, the one goes whose owner has the most connections; one that has sent what
    is not read yet is spared, if there are others.

    Args:
        most: the largest number of requests in progress.
        most_bytes: of the bodies that arrive and of the responses that wait to be read.
        on_evicted: called with what others needed, `place` or `memory`.
    """

    def __init__(
        self, most: int, most_bytes: int, *, on_evicted: Callable[[str], None] = lambda _: None
    ) -> None:
        self._on_evicted = on_evicted
        self._most = most
        self._most_connections = most + spare_connections(most)
        self._most_bytes = most_bytes
        self._idle: dict[Member, None] = {}
        self._slow: dict[Member, None] = {}
        self._serving: dict[Member, None] = {}
        self._owned: Counter[str] = Counter()
        self._held: dict[Member, int] = {}
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._idle) + len(self._slow) + len(self._serving)

    @property
    def places(self) -> Places:
        """The places for requests in progress."""
        return Places(self._most, max(0, self._most - len(self._serving)))

    def add(self, member: Member, state: State) -> bool:
        """Take a connection in; return whether there is room for it."""
        if len(self) >= self._most_connections:
            oldest = self._longest_waiting()
            if oldest is None:
                return False
            self._evict(oldest, "place")
        self._group(state)[member] = None
        if member.owner is not None:
            self._owned[member.owner] += 1
        return True

    def _longest_waiting(self) -> Member | None:
        """Return the one to close: of the owner with the most, and that has sent nothing new."""
        oldest = [*islice(self._idle, _MOST_LOOKS), *islice(self._slow, _MOST_LOOKS)]
        oldest.sort(key=lambda member: -self._owned.get(member.owner or "", 0))
        silent = (member for member in oldest if not member.has_input())
        return next(silent, oldest[0] if oldest else None)

    def move(self, member: Member, old: State, new: State) -> None:
        """Note that a connection waits for something else, from now on."""
        if member in self._group(old):
            del self._group(old)[member]
            self._group(new)[member] = None

    def hold(self, member: Member, size: int) -> None:
        """Note how many bytes a connection holds; too many in all cost the slowest its place."""
        if size == self._held.get(member, 0):
            return
        self._release(member)
        if size:
            self._held[member] = size
            self.held_bytes += size
        while self.held_bytes > self._most_bytes:
            oldest = next((each for each in self._slow if each in self._held), None)
            if oldest is None:
                return
            self._evict(oldest, "memory")

    def remove(self, member: Member) -> None:
        """Forget a connection, known or not."""
        self._release(member)
        for group in (self._idle, self._slow, self._serving):
            if member in group:
                del group[member]
                if member.owner is not None:
                    self._owned[member.owner] -= 1
                    if not self._owned[member.owner]:
                        del self._owned[member.owner]

    def _group(self, state: State) -> dict[Member, None]:
        """Return the connections that are alike in this, the longest waiting first."""
        match state:
            case State.IDLE:
                return self._idle
            case State.SERVING:
                return self._serving
            case _:
                return self._slow

    def _evict(self, member: Member, needed: str) -> None:
        self.remove(member)
        self._on_evicted(needed)
        member.evict()

    def _release(self, member: Member) -> None:
        self.held_bytes -= self._held.pop(member, 0)
