"""Plan batches: which pairs are scored together, within a number of tokens, longest first."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["plan_batches", "tokens_in_batch"]


def plan_batches(
    lengths: Sequence[int],
    batch_tokens: int,
    *,
    padded: bool,
    max_pairs: int | None = None,
    groups: Sequence[int] | None = None,
    shared: Sequence[int] | None = None,
) -> list[list[int]]:
    """Return batches of pair indices, each index once, longest pairs first.

    So memory peaks in the first batch, and pairs of similar length share one. A pair that is
    longer than `batch_tokens` gets a batch of its own. Where pairs share a prefix, groups stay
    together, the one with the longest pair first, so that few of them are split.

    Args:
        lengths: tokens in each pair.
        batch_tokens: the most tokens in a batch.
        padded: whether each pair of a batch takes as many tokens as the longest one.
        max_pairs: the most pairs in a batch; None: as many as `batch_tokens` allows.
        groups: the group of each pair.
        shared: how many tokens of each pair are a prefix that its group computes once per batch.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    if groups is not None and shared is not None:
        rank: dict[int, int] = {}
        for index in order:
            rank.setdefault(groups[index], len(rank))
        order.sort(key=lambda index: rank[groups[index]])
    batches: list[list[int]] = []
    batch: list[int] = []
    present: set[int] = set()
    tokens = longest = 0
    for index in order:
        group = None if groups is None else groups[index]
        saved = shared[index] if shared is not None and group in present else 0
        cost = longest if padded and batch else lengths[index] - saved
        if batch and (tokens + cost > batch_tokens or len(batch) == max_pairs):
            batches.append(batch)
            batch, tokens, cost = [], 0, lengths[index]
            present.clear()
        longest = longest if batch else lengths[index]
        batch.append(index)
        tokens += cost
        if group is not None:
            present.add(group)
    return [*batches, batch] if batch else batches


def tokens_in_batch(
    batch: Sequence[int],
    lengths: Sequence[int],
    *,
    padded: bool,
    groups: Sequence[int] | None = None,
    shared: Sequence[int] | None = None,
) -> int:
    """Return how many tokens a batch takes; see `plan_batches` for the arguments."""
    if padded:
        return max(lengths[index] for index in batch) * len(batch)
    taken = sum(lengths[index] for index in batch)
    if groups is None or shared is None:
        return taken
    saved = sum(shared[index] for index in batch)
    return taken - saved + sum({groups[index]: shared[index] for index in batch}.values())
