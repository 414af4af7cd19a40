"""What requests cost: of one pair, from its length; of those that wait, for one more."""

from __future__ import annotations

from collections.abc import Iterable

from rerank_plugins.content import Content, Query

__all__ = ["LETTERS_PER_TOKEN", "estimated_tokens", "fair_share"]

LETTERS_PER_TOKEN = 4
"""ASCII characters that are estimated as one token; any other character is one."""
_SPECIAL_TOKENS = 4
"""Tokens around the two texts of a pair; so even an empty document costs something."""
_IMAGE_TOKENS = 1_024
"""The tokens of an image of ordinary size, roughly."""


def estimated_tokens(query: str | Query, document: str | Content, *, limit: int) -> int:
    """Estimate the tokens of a pair: one for 4 ASCII characters or 1 other, 1,024 for an image."""
    return min(limit, _SPECIAL_TOKENS + _tokens(query) + _tokens(document))


def fair_share(waiting: Iterable[int], own: int) -> int:
    """Return how much of what waits counts against one more request: of each, as much as its own.

    So a large request takes up no more room than one of this size would.
    """
    return sum(min(size, own) for size in waiting)


def _tokens(value: str | Query | Content) -> int:
    if isinstance(value, str):
        return len(value) // LETTERS_PER_TOKEN if value.isascii() else len(value)
    image = 0 if value.image is None else _IMAGE_TOKENS
    instruction = value.instruction if isinstance(value, Query) else None
    return image + _tokens(value.text or "") + _tokens(instruction or "")
