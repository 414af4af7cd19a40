"""What a pair costs, guessed from its texts."""

from __future__ import annotations

__all__ = ["estimated_tokens"]

_SPECIAL_TOKENS = 4
"""Tokens around the two texts of a pair; so even an empty document costs something."""


def estimated_tokens(query: str, document: str, *, limit: int) -> int:
    """Guess how many tokens a pair has, without tokenising: 4 ASCII characters, or 1 other."""
    return min(limit, _SPECIAL_TOKENS + _text_tokens(query) + _text_tokens(document))


def _text_tokens(text: str) -> int:
    return len(text) // 4 if text.isascii() else len(text)
