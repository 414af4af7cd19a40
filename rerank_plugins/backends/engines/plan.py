"""Which pairs are scored together: batches within a budget of tokens, longest first."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["plan"]


def plan(
    lengths: Sequence[int], budget: int, *, padded: bool, most: int | None = None
) -> list[list[int]]:
    """Return batches of pair indices, each index once, longest pairs first.

    Memory thus peaks in the first batch, and pairs of like length share one. A pair above the
    budget gets a batch of its own.

    Args:
        lengths: tokens in each pair.
        budget: most tokens in a batch.
        padded: whether each pair of a batch takes as many tokens as the longest one.
        most: most pairs in a batch; None: as many as the budget allows.
    """
    batches: list[list[int]] = []
    batch: list[int] = []
    tokens = longest = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        cost = longest if padded and batch else lengths[index]
        if batch and (tokens + cost > budget or len(batch) == most):
            batches.append(batch)
            batch, tokens, cost = [], 0, lengths[index]
        longest = longest if batch else lengths[index]
        batch.append(index)
        tokens += cost
    return [*batches, batch] if batch else batches
