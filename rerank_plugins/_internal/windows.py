"""Long texts in windows: which tokens are read together, and which characters these are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

__all__ = ["Window", "sentences", "split"]

_OVERLAP = 8
"""Windows share an eighth of their tokens, so that no sentence is read in two halves only."""
_MOST_OVERLAP = 4
"""Or up to a quarter, to start with a sentence."""

_SENTENCE_END = re.compile(
    r"(?<![.!?…])[.!?…]+[\"'”’»)\]]*\s+|[。！？｡]+[”’」』）]*\s*|[؟۔।॥]+\s*|\n\s*"
)
"""What a sentence of most scripts ends with, up to the start of the next.

A row of dots is looked at once, from its first: from each of them, it would take quadratic time.
"""


class Window(NamedTuple):
    """Tokens that are read together, `first` to `last`, and their text, `text[start:end]`."""

    first: int
    last: int
    start: int
    end: int


def split(text: str, spans: Sequence[tuple[int, int]], size: int, *, limit: int) -> list[Window]:
    """Return windows that cover the tokens of a text in order, each of at most `size` tokens.

    They are of about one length and overlap by about an eighth, and start and end where sentences
    do, or else words, if one does nearby. The text of a window has no white space around it.

    Args:
        text: the text.
        spans: where each token stands in the text; tokens may share characters.
        size: the most tokens of a window, at least 1.
        limit: the most windows, at least 1; what comes after them is left out.
    """
    count = len(spans)
    windows: list[Window] = []
    first = 0
    while first < count and len(windows) < limit:
        last = _last(text, spans, first, size)
        windows.append(Window(first, last, *_characters(text, spans[first:last])))
        if last == count:
            break
        first = _next(text, spans, last, size)
    return windows


def sentences(text: str, spans: Sequence[tuple[int, int]], window: Window) -> list[Window]:
    """Return the sentences of a window, or their parts that it holds, as windows of their own."""
    starts = _sentence_starts(text, spans, window.first + 1, window.last - 1)
    bounds = [window.first]
    for at in starts:
        if text[spans[bounds[-1]][0] : spans[at][0]].strip():  # else a token of white space
            bounds.append(at)
    bounds.append(window.last)
    return [
        Window(first, last, *_characters(text, spans[first:last]))
        for first, last in pairwise(bounds)
    ]


def _last(text: str, spans: Sequence[tuple[int, int]], first: int, size: int) -> int:
    """Return where the window that starts at `first` ends."""
    left = len(spans) - first
    if left <= size:
        return len(spans)
    overlap = size // _OVERLAP
    windows = -((overlap - left) // (size - overlap))
    target = first + min(size, -(-(left + (windows - 1) * overlap) // windows))
    lowest, highest = first + size // 2 + 1, first + size
    ends = [*_sentence_starts(text, spans, lowest, highest)]
    if not ends:
        ends = [at for at in range(lowest, highest + 1) if _starts_word(text, spans[at])]
    return min(ends, key=lambda at: abs(at - target), default=target)


def _next(text: str, spans: Sequence[tuple[int, int]], last: int, size: int) -> int:
    """Return where the window after one that ends at `last` starts."""
    lowest = last - size // _OVERLAP
    sentences = [*_sentence_starts(text, spans, last - size // _MOST_OVERLAP, last - 1)]
    if sentences:
        return next((at for at in sentences if at >= lowest), sentences[-1])
    return next((at for at in range(lowest, last) if _starts_word(text, spans[at])), lowest)


def _sentence_starts(
    text: str, spans: Sequence[tuple[int, int]], lowest: int, highest: int
) -> Iterator[int]:
    """Yield the tokens from `lowest` to `highest` before which a sentence ends."""
    if highest < lowest:
        return
    begin, end = spans[lowest - 1][0] if lowest else 0, spans[highest][1]
    ends = {begin + match.end() for match in _SENTENCE_END.finditer(text[begin:end])}
    for at in range(lowest, highest + 1):
        start, stop = spans[at]
        # A token may begin with the space before its word.
        while start < stop and text[start].isspace():
            start += 1
        if start in ends and (not at or spans[at - 1][1] <= start):
            yield at


def _starts_word(text: str, span: tuple[int, int]) -> bool:
    start = span[0]
    return text[start : start + 1].isspace() or text[start - 1 : start].isspace()


def _characters(text: str, spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the characters of tokens, without white space around them unless that is all."""
    start, end = min(start for start, _ in spans), max(end for _, end in spans)
    inner = text[start:end]
    if not inner or inner.isspace():
        return start, end
    return start + len(inner) - len(inner.lstrip()), end - len(inner) + len(inner.rstrip())
