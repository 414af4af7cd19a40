"""Which clients end the process of a model again and again: they have to wait, longer each time."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Iterable
from time import monotonic
from typing import TypeVar

from rerank_plugins.errors import BackendOverloaded

__all__ = ["ClientSuspended", "Suspensions"]

_log = logging.getLogger(__name__)

_Value = TypeVar("_Value")

_MEMORY_SECONDS = 600.0
"""How long a crash counts: the model may be mended, and processes also end by themselves."""
_ALONE_SECONDS = 60.0
"""How long after a crash each request of the client is scored alone."""
_FIRST_SECONDS, _LAST_SECONDS = 10.0, 320.0
"""How long a client waits after its second crash; twice as long after each further one."""
_OTHERS_SECONDS = 60.0
"""How long after its last request another client counts as one that a crash would stop."""
_MOST = 4096


class ClientSuspended(BackendOverloaded):
    """The requests of this client ended the model's process more than once."""


class Suspensions:
    """Finds the clients whose requests end the model's process, and refuses them for a while.

    Those that had a document in progress when it ended are suspects: they share no batch with
    others for ten minutes, so that the next crash has one author. After a crash of its own, each
    request of a client is scored alone for a minute; the second one within ten minutes, each of
    other documents, suspends it for ten seconds, and each further one for twice as long. A client
    that nobody shares the model with harms only itself and is never suspended. Who has no name is
    never a suspect.
    """

    def __init__(self) -> None:
        self._suspects: OrderedDict[str, float] = OrderedDict()
        """Until when each is one."""
        self._crashes: OrderedDict[str, deque[float]] = OrderedDict()
        """When each ended a process of its own."""
        self._until: OrderedDict[str, float] = OrderedDict()
        """Until when each has to wait."""
        self._latest: list[tuple[str | None, float]] = []
        """The two clients that were here last, and when."""

    def arrive(self, client: str | None) -> None:
        """Note a request of a client.

        Raises:
            ClientSuspended: the client is to wait.
        """
        others = [latest for latest in self._latest if latest[0] != client]
        self._latest = [(client, monotonic()), *others[:1]]
        self.check(client)

    def check(self, client: str | None) -> None:
        """Check that a client is not to wait.

        Raises:
            ClientSuspended: it is.
        """
        if client is None or (until := self._until.get(client)) is None:
            return
        seconds = until - monotonic()
        if seconds > 0 and self._has_others(client):
            raise ClientSuspended(
                "requests of this client ended the model's process more than once, so it is "
                f"suspended for {seconds:.0f} s",
                retry_after=seconds,
            )

    def danger(self, client: str | None) -> int:
        """Return how likely the requests of a client are to end the process.

        With 0 they may share a batch with those of others; with 1 only with their own, and with
        more, the number of recent crashes and 1, each is alone.
        """
        now = monotonic()
        if client is None or self._suspects.get(client, 0.0) <= now:
            return 0
        crashes = self._crashes.get(client, ())
        return 1 + sum(time > now - _ALONE_SECONDS for time in crashes)

    def suspect(self, clients: Iterable[str | None]) -> None:
        """Record that the process ended while it scored for these clients."""
        for client in clients:
            if client is not None:
                _remember(self._suspects, client, monotonic() + _MEMORY_SECONDS)

    def blame(self, client: str | None) -> None:
        """Record that new documents of one client alone ended the process."""
        if client is None:
            return
        self.suspect([client])
        now = monotonic()
        crashes = self._crashes.get(client, deque(maxlen=16))
        while crashes and crashes[0] <= now - _MEMORY_SECONDS:
            crashes.popleft()
        crashes.append(now)
        _remember(self._crashes, client, crashes)
        if len(crashes) > 1:
            seconds = min(_LAST_SECONDS, _FIRST_SECONDS * 2 ** (len(crashes) - 2))
            _remember(self._until, client, now + seconds)
            if self._has_others(client):
                _log.error("%s ended the model's process again: refused for %g s", client, seconds)

    def _has_others(self, client: str) -> bool:
        now = monotonic()
        return any(name != client and now - seen < _OTHERS_SECONDS for name, seen in self._latest)


def _remember(values: OrderedDict[str, _Value], client: str, value: _Value) -> None:
    values.pop(client, None)
    values[client] = value
    if len(values) > _MOST:
        values.popitem(last=False)
