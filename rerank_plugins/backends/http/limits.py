"""What a server takes in one request: learned when it refuses one, and forgotten after a while."""

from __future__ import annotations

import re
from time import monotonic
from typing import Literal, NamedTuple, TypeAlias

from rerank_plugins.backends.http.responses import HTTPResponse

__all__ = ["LearnedLimits", "SizeLimit", "Unit", "size_limit"]

_LIFETIME = 600.0
"""Seconds until a learned limit is doubled, to find out whether the server takes more by then."""

_REFUSALS = frozenset({400, 413, 422})
_TOO_LARGE = 413

_DOCUMENTS = re.compile(
    r"\b(documents?|texts?|passages|batch|inputs?|items|list|sentences)\b", re.IGNORECASE
)
_TOKENS = re.compile(
    r"tokens (per|in) (the |a |your |submitted )*(batch|request)|total tokens", re.IGNORECASE
)
# "batch size 40 > maximum allowed batch size 32", "at most 2048 items", "limit of 1000 documents"
_MAXIMUM = re.compile(
    r"(?:max(?:imum)?|at most|limit|up to|(?:no )?more than|exceeds?|fewer than|less than)"
    r"[^\d]{0,40}?(\d{1,7})\b",
    re.IGNORECASE,
)

Unit: TypeAlias = Literal["documents", "bytes"]
"""What a limit counts."""


class SizeLimit(NamedTuple):
    """How large a request may be."""

    unit: Unit
    maximum: int


def size_limit(response: HTTPResponse, *, documents: int, size: int) -> SizeLimit | None:
    """Return the limit that a refusal states or implies; None if it is about something else.

    Without a stated limit, the limit is half of what the server refused.

    Args:
        response: the refusal.
        documents: how many documents the request held.
        size: how many bytes the request held.
    """
    if response.status not in _REFUSALS:
        return None
    text = response.content.decode(errors="replace")
    if _TOKENS.search(text):
        return SizeLimit("bytes", size // 2)
    stated = _MAXIMUM.search(text)
    if _DOCUMENTS.search(text) and stated and 0 < int(stated[1]) < documents:
        return SizeLimit("documents", int(stated[1]))
    return SizeLimit("bytes", size // 2) if response.status == _TOO_LARGE else None


class LearnedLimits:
    """The limits of one server, as far as its refusals revealed them.

    Needs no lock: at worst, two refusals at the same time teach one limit twice.
    """

    def __init__(self) -> None:
        self._maxima: dict[Unit, tuple[int, float]] = {}

    def learn(self, limit: SizeLimit) -> None:
        """Remember a limit, unless a lower one is remembered already."""
        current = self.maximum(limit.unit)
        maximum = limit.maximum if current is None else min(current, limit.maximum)
        self._maxima[limit.unit] = (maximum, monotonic() + _LIFETIME)

    def maximum(self, unit: Unit) -> int | None:
        """Return the learned limit, if any; each lifetime doubles it."""
        if unit not in self._maxima:
            return None
        maximum, expires = self._maxima[unit]
        if monotonic() >= expires:
            maximum, expires = 2 * maximum, monotonic() + _LIFETIME
            self._maxima[unit] = (maximum, expires)
        return maximum
