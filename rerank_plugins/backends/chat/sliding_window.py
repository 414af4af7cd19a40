"""Ranks many documents with a model that can put only a few of them in order at once."""

from __future__ import annotations

from collections.abc import Generator, Sequence

__all__ = ["count_windows", "slide"]


def slide(count: int, *, window: int, step: int) -> Generator[list[int], Sequence[int], list[int]]:
    """Yield windows of documents, receive each in its new order, return the order of all.

    The windows go from the end to the beginning and overlap, so that the best documents move
    forward from one to the next, as RankGPT does it.

    Args:
        count: how many documents there are.
        window: maximum documents in a window.
        step: by how many documents a window stands before the last one.

    Returns:
        the positions of all documents, the best first.
    """
    order = list(range(count))
    end = count
    while end > 0:
        start = max(end - window, 0)
        if end - start > 1:
            order[start:end] = yield order[start:end]
        if start == 0:
            break
        end -= step
    return order


def count_windows(count: int, *, window: int, step: int) -> int:
    """Return how many windows `slide` yields for `count` documents."""
    return 1 + max(-((window - count) // step), 0) if count else 0
