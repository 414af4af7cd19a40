"""Windows of texts by the tokens that a function counts, which says nothing of where they stand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache

from rerank_plugins._internal.windows import Window, split
from rerank_plugins.errors import ConfigError

__all__ = ["CountedWindows"]

_UNIT = re.compile(r"\s{1,16}\S{0,16}|\S{1,16}")
"""A word with the space before it, as most tokenizers read it, or a part of a long one."""
_LETTERS_PER_TOKEN = 32
"""A text with longer tokens is not counted as a whole: it may be a megabyte of white space."""
_TOKENS_PER_LETTER = 4
"""The bytes of a letter in UTF-8; no tokenizer reads less than one."""
_KNOWN_UNITS = 1 << 15


class CountedWindows:
    """Splits texts into windows of at most `size` tokens.

    Words are counted one by one, and no more of them than the windows need, so that the cost is
    bounded; the windows that come out are counted as they are, so that the limit holds.

    Args:
        count: returns the tokens of a text, with or without those that stand around each.
        size: the most tokens of a window, with those that stand around it.

    Raises:
        ConfigError: an empty text has that many tokens already.
    """

    def __init__(self, count: Callable[[str], int], size: int) -> None:
        self._around = count("")
        if self._around >= size:
            raise ConfigError(
                f"window_tokens={size} leaves no room: `count_tokens` counts {self._around} tokens "
                "in an empty text"
            )
        self._count = count
        self._size = size
        self._count_unit = lru_cache(_KNOWN_UNITS)(self._unit_tokens)

    def fits(self, text: str) -> bool:
        """Return whether a text is one window."""
        return len(text) <= self._size * _LETTERS_PER_TOKEN and self._count(text) <= self._size

    def split(self, text: str, *, limit: int) -> list[tuple[int, int]]:
        """Return the characters of each window of a text, of at most `limit` windows.

        A character alone may have more than `size` tokens.
        """
        size = room = self._size - self._around
        while True:
            windows = self._split(text, size, limit)
            most = max(self._count(text[window.start : window.end]) for window in windows)
            if most <= self._size or size == 1:
                return list(dict.fromkeys((window.start, window.end) for window in windows))
            # Words have fewer tokens alone than together; rare, so all is split again.
            size = max(1, min(size - 1, size * room // (most - self._around)))

    def _split(self, text: str, size: int, limit: int) -> list[Window]:
        spans: list[tuple[int, int]] = []
        for span in self._spans(text):
            spans.append(span)
            if len(spans) > size * (limit + 1):
                break
        return split(text, spans, size, limit=limit)

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield about where each token stands: those of a word share its letters evenly."""
        for match in _UNIT.finditer(text):
            start, end = match.span()
            tokens = min(self._count_unit(match[0]), _TOKENS_PER_LETTER * (end - start))
            for at in range(tokens):
                first = start + at * (end - start) // tokens
                last = start + (at + 1) * (end - start) // tokens
                yield min(first, end - 1), max(last, first + 1)

    def _unit_tokens(self, unit: str) -> int:
        return max(1, self._count(unit) - self._around)
