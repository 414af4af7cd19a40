"""The planner: every pair once, within the budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.backends.engines.plan import plan

lengths_of_pairs = st.lists(st.integers(1, 600), max_size=80)


def cost(batch: list[int], lengths: list[int], *, padded: bool) -> int:
    taken = [lengths[index] for index in batch]
    return max(taken) * len(taken) if padded else sum(taken)


@given(
    lengths=lengths_of_pairs,
    budget=st.integers(1, 2000),
    padded=st.booleans(),
    most=st.none() | st.integers(1, 9),
)
def test_each_pair_once_within_the_budget(
    lengths: list[int], budget: int, *, padded: bool, most: int | None
) -> None:
    """Only a pair that is alone in its batch may be above the budget."""
    batches = plan(lengths, budget, padded=padded, most=most)

    assert list(range(len(lengths))) == sorted(index for batch in batches for index in batch)
    for batch in batches:
        assert cost(batch, lengths, padded=padded) <= budget or len(batch) == 1
        assert most is None or len(batch) <= most


@given(lengths=lengths_of_pairs, budget=st.integers(1, 2000), padded=st.booleans())
def test_longest_pairs_come_first(lengths: list[int], budget: int, *, padded: bool) -> None:
    order = [lengths[i] for batch in plan(lengths, budget, padded=padded) for i in batch]

    assert sorted(lengths, reverse=True) == order


@pytest.mark.parametrize("padded", [True, False])
def test_batches_are_filled(*, padded: bool) -> None:
    """What fits into one batch is not spread over two."""
    assert [[0, 1, 2, 3]] == plan([100] * 4, 400, padded=padded)
    assert [[0, 1, 2], [3]] == plan([100] * 4, 399, padded=padded)


def test_padding_counts() -> None:
    """A short pair beside a long one costs as much as the long one, if it is padded."""
    assert [[0, 1]] == plan([100, 10], 110, padded=False)
    assert [[0], [1]] == plan([100, 10], 110, padded=True)
