"""What a server takes in one request: learned from its refusals, and forgotten in time."""

from __future__ import annotations

import re
from time import monotonic
from typing import Literal, NamedTuple

from rerank_plugins.backends.http.responses import Reply

__all__ = ["Limits", "Refused", "too_large"]

_KEPT = 600.0
"""Seconds until a learned limit is doubled, to find out whether the server takes more by now."""

_LARGEST_ERROR = 2**16
_REFUSALS = frozenset({400, 413, 422})
_TOO_LARGE = 413

_DOCUMENTS = re.compile(
    r"\b(documents?|texts?|passages|batch|inputs?|items|list|sentences)\b", re.IGNORECASE
)
_TOKENS = re.compile(
    r"tokens (per|in) (the |a |your |submitted )*(batch|request)|total tokens", re.IGNORECASE
)
# "batch size 40 > maximum allowed batch size 32", "at most 2048 items", "limit of 1000 documents"
_MOST = re.compile(
    r"(?:max(?:imum)?|at most|limit|up to|(?:no )?more than|exceeds?|fewer than|less than)"
    r"[^\d]{0,40}?(\d{1,7})\b",
    re.IGNORECASE,
)


class Refused(NamedTuple):
    """A request that is too large."""

    by: Literal["documents", "bytes"]
    """What there is too much of."""
    most: int
    """How much the server takes, as it says, or half of what it did not take."""


def too_large(reply: Reply, *, documents: int, size: int) -> Refused | None:
    """Return what a refusal says about the size of a request; None if it is about something else.

    Args:
        reply: what came back.
        documents: how many documents the request held.
        size: how many bytes it held.
    """
    if reply.status not in _REFUSALS or len(reply.content) > _LARGEST_ERROR:
        return None
    text = reply.content.decode(errors="replace")
    if _TOKENS.search(text):
        return Refused("bytes", size // 2)
    found = _MOST.search(text)
    if _DOCUMENTS.search(text) and found and 0 < int(found[1]) < documents:
        return Refused("documents", int(found[1]))
    return Refused("bytes", size // 2) if reply.status == _TOO_LARGE else None


class Limits:
    """How many documents and bytes one server takes at once, as far as it is known.

    Needs no lock: at worst, one of two refusals at the same time is learned again.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, float]] = {}

    def learn(self, refused: Refused) -> None:
        """Remember a refusal; a limit that is known already only gets lower."""
        known = self.most(refused.by)
        most = refused.most if known is None else min(known, refused.most)
        self._known[refused.by] = (most, monotonic() + _KEPT)

    def most(self, by: Literal["documents", "bytes"]) -> int | None:
        """Return the limit that was learned, if any; with time, twice and twice as much."""
        if by not in self._known:
            return None
        most, until = self._known[by]
        if monotonic() >= until:
            most, until = 2 * most, monotonic() + _KEPT
            self._known[by] = (most, until)
        return most
