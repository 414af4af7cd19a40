"""Attention over packed sequences against the textbook formula, sequence by sequence."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs the extra `local`")

import torch
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.backends.engines.varlen import varlen_attention


def textbook(query, key, value, scale, window):
    """softmax(scale · Q Kᵀ + mask) V for one sequence, [tokens, heads, width]."""
    times = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    products = torch.einsum("qhd,khd->hqk", query, key) * scale
    for row in range(len(query)):
        for column in range(len(query)):
            too_early = 0 <= window[0] < row - column
            too_late = 0 <= window[1] < column - row
            if too_early or too_late:
                products[:, row, column] = -torch.inf
    return torch.einsum("hqk,khd->qhd", products.softmax(-1), value)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.sampled_from([(-1, -1), (-1, 0), (2, 2), (3, 0), (0, 0)]),
    st.sampled_from([(4, 4), (4, 2), (4, 1)]),
)
def test_each_sequence_attends_to_itself_alone(lengths, window, heads) -> None:
    drawn = torch.Generator().manual_seed(sum(lengths))
    query, key, value = (
        torch.randn(sum(lengths), count, 8, generator=drawn, dtype=torch.float64)
        for count in (heads[0], heads[1], heads[1])
    )
    offsets = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    mixed = varlen_attention(query, key, value, offsets, max(lengths), scale=0.3, window=window)
    expected = torch.cat(
        [
            textbook(q, k, v, 0.3, window)
            for q, k, v in zip(*(x.split(lengths) for x in (query, key, value)), strict=True)
        ]
    )

    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-12)
