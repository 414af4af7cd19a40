"""Turns of clients at a backend that works on a few requests at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Turns"]


class Turns:
    """Lets so many requests through at once; behind them the clients take turns, one request each.

    So a client that sends thousands of requests waits for itself, and another one only for the
    next that is done.

    Args:
        most: how many at once.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: dict[str | None, dict[asyncio.Future[None], None]] = {}
        """The requests that wait, oldest first, by client, in the order of their turns."""

    @asynccontextmanager
    async def turn(self, client: str | None) -> AsyncIterator[None]:
        """Wait for a turn of this client; it lasts as long as the block."""
        await self._wait(client)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, client: str | None) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, {})[turn] = None
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(client, turn)
            else:  # it was given just before
                self._pass_on()
            raise

    def _forget(self, client: str | None, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(client, {})
        turns.pop(turn, None)
        if not turns:
            self._waiting.pop(client, None)

    def _pass_on(self) -> None:
        while self._waiting:
            client = next(iter(self._waiting))
            turns = self._waiting.pop(client)
            turn = next(iter(turns))
            del turns[turn]
            if turns:
                self._waiting[client] = turns  # behind the others
            if not turn.done():  # its caller may just be gone
                turn.set_result(None)
                return
        self._free += 1
