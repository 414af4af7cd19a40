"""Attention over packed sequences against the textbook formula, sequence by sequence."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs the extra `local`")

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from rerank_plugins.backends.local.torch.attention import varlen_attention


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


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 7)), min_size=1, max_size=5),
    st.sampled_from([(-1, 0), (3, 0), (-1, -1)]),
)
def test_a_sequence_may_read_tokens_before_its_own(sides, window) -> None:
    """It then gets what its last rows would get if all of them were its own."""
    drawn = torch.Generator().manual_seed(len(sides))
    own, before = [a for a, _ in sides], [b for _, b in sides]
    read = [a + b for a, b in sides]
    query = torch.randn(sum(read), 4, 8, generator=drawn, dtype=torch.float64)
    key, value = (
        torch.randn(sum(read), 2, 8, generator=drawn, dtype=torch.float64) for _ in range(2)
    )
    rows = torch.cat([part[b:] for part, b in zip(query.split(read), before, strict=True)])
    offsets, key_offsets = (
        torch.tensor([0, *counts], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        for counts in (own, read)
    )
    mixed = varlen_attention(
        rows,
        key,
        value,
        offsets,
        max(own),
        scale=0.3,
        window=window,
        key_offsets=key_offsets,
        longest_key=max(read),
    )
    expected = torch.cat(
        [
            textbook(q, k, v, 0.3, window)[b:]
            for q, k, v, b in zip(
                *(x.split(read) for x in (query, key, value)), before, strict=True
            )
        ]
    )

    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (7, 7)])
def test_the_flash_kernel_takes_our_arguments(window) -> None:
    """Shapes only, on a made-up GPU: grouped heads, and tokens read before a sequence's own."""
    with FakeTensorMode():
        query = torch.empty(30, 4, 64, device="cuda", dtype=torch.float16)
        key = torch.empty(40, 2, 64, device="cuda", dtype=torch.float16)
        offsets = torch.empty(4, device="cuda", dtype=torch.int32)
        mixed = varlen_attention(
            query,
            key,
            key,
            offsets,
            64,
            scale=0.1,
            window=window,
            key_offsets=offsets,
            longest_key=64,
        )

        assert (query.shape, query.dtype, query.device) == (mixed.shape, mixed.dtype, mixed.device)
