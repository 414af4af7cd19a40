"""The planner: every pair once, within the budget."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.backends.local.torch.batch_plan import plan_batches, tokens_in_batch

lengths_of_pairs = st.lists(st.integers(1, 600), max_size=80)


def cost(batch: list[int], lengths: list[int], *, padded: bool) -> int:
    taken = [lengths[index] for index in batch]
    return max(taken) * len(taken) if padded else sum(taken)


@given(
    lengths=lengths_of_pairs,
    batch_tokens=st.integers(1, 2000),
    padded=st.booleans(),
    max_pairs=st.none() | st.integers(1, 9),
)
def test_each_pair_once_within_the_budget(
    lengths: list[int], batch_tokens: int, *, padded: bool, max_pairs: int | None
) -> None:
    """Only a pair that is alone in its batch may be above the budget."""
    batches = plan_batches(lengths, batch_tokens, padded=padded, max_pairs=max_pairs)

    assert list(range(len(lengths))) == sorted(index for batch in batches for index in batch)
    for batch in batches:
        assert cost(batch, lengths, padded=padded) <= batch_tokens or len(batch) == 1
        assert max_pairs is None or len(batch) <= max_pairs


@given(lengths=lengths_of_pairs, batch_tokens=st.integers(1, 2000), padded=st.booleans())
def test_longest_pairs_come_first(lengths: list[int], batch_tokens: int, *, padded: bool) -> None:
    order = [
        lengths[i] for batch in plan_batches(lengths, batch_tokens, padded=padded) for i in batch
    ]

    assert sorted(lengths, reverse=True) == order


@pytest.mark.parametrize("padded", [True, False])
def test_batches_are_filled(*, padded: bool) -> None:
    """What fits into one batch is not spread over two."""
    assert [[0, 1, 2, 3]] == plan_batches([100] * 4, 400, padded=padded)
    assert [[0, 1, 2], [3]] == plan_batches([100] * 4, 399, padded=padded)


def test_padding_counts() -> None:
    """A short pair beside a long one costs as much as the long one, if it is padded."""
    assert [[0, 1]] == plan_batches([100, 10], 110, padded=False)
    assert [[0], [1]] == plan_batches([100, 10], 110, padded=True)


@given(
    pairs=st.lists(st.tuples(st.integers(1, 300), st.integers(0, 5)), max_size=60),
    batch_tokens=st.integers(1, 1500),
)
def test_the_shared_prefix_of_a_group_is_counted_once(
    pairs: list[tuple[int, int]], batch_tokens: int
) -> None:
    """Each pair is still there once, groups follow one another, and the budget holds."""
    lengths, groups = [length for length, _ in pairs], [group for _, group in pairs]
    shortest = {group: min(n for n, g in pairs if g == group) for group in groups}
    shared = [shortest[group] - 1 for group in groups]
    batches = plan_batches(lengths, batch_tokens, padded=False, groups=groups, shared=shared)
    order = [index for batch in batches for index in batch]
    changes = sum(groups[a] != groups[b] for a, b in pairwise(order))

    assert list(range(len(pairs))) == sorted(order)
    assert changes == max(len(set(groups)) - 1, 0)
    for batch in batches:
        taken = tokens_in_batch(batch, lengths, padded=False, groups=groups, shared=shared)
        assert taken <= batch_tokens or len(batch) == 1


def test_sharing_makes_room() -> None:
    lengths, groups, shared = [100] * 4, [0, 0, 1, 1], [80] * 4
    assert 240 == tokens_in_batch(range(4), lengths, padded=False, groups=groups, shared=shared)
    assert [[0, 1, 2, 3]] == plan_batches(lengths, 240, padded=False, groups=groups, shared=shared)
    assert [[0, 1], [2, 3]] == plan_batches(
        lengths, 219, padded=False, groups=groups, shared=shared
    )
