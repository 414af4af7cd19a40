"""Attention over sequences of different lengths that lie one after another in one row."""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
from typing import Any, TypeAlias

import torch
from torch.nn import functional

__all__ = ["Window", "varlen_attention"]

Window: TypeAlias = tuple[int, int]
"""How many tokens before and after itself a token sees; -1 for all of them."""

_Sides: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""Offsets of what reads, and of what is read."""

_EVERYTHING: Window = (-1, -1)
_MASK_STEP = 128


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    offsets: torch.Tensor,
    longest: int,
    *,
    scale: float,
    window: Window = _EVERYTHING,
    key_offsets: torch.Tensor | None = None,
    longest_key: int = 0,
) -> torch.Tensor:
    """Return softmax(scale · Q Kᵀ) V within each sequence, and nothing across them.

    On CUDA, torch's flash kernel runs in half precision and its memory-efficient kernel in
    float32, without waiting for results; elsewhere each sequence is a call of its own.

    Args:
        query: [tokens, heads, width].
        key: [tokens, key heads, width]; each key head serves `heads / key heads` heads.
        value: like `key`.
        offsets: int32, where each sequence starts, and the end: one more than sequences.
        longest: at least the length of the longest sequence.
        scale: factor of the products.
        window: (-1, 0) is causal attention.
        key_offsets: like `offsets` for the tokens that each sequence reads, where these are more
            than its own, which come last. None: a sequence reads its own.
        longest_key: at least the longest of what is read; only with `key_offsets`.

    Raises:
        NotImplementedError: this torch has no kernel for it on this device.
    """
    sides = (offsets, offsets if key_offsets is None else key_offsets)
    max_lengths = (longest, longest if key_offsets is None else longest_key)
    if not query.is_cuda:
        alone: torch.Tensor = _one_by_one(query, key, value, sides, scale=scale, window=window)
        return alone
    if query.dtype in (torch.float16, torch.bfloat16):
        return _flash(query, key, value, sides, max_lengths, scale=scale, window=window)
    return _efficient(query, key, value, sides, max_lengths, scale=scale, window=window)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # not ours; it would compile per length
def _one_by_one(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sides: _Sides,
    *,
    scale: float,
    window: Window,
) -> torch.Tensor:
    key, value = _repeated(query, key, value)
    offsets, key_offsets = (side.tolist() for side in sides)
    mixed = torch.empty_like(query)
    mixed[offsets[-1] :] = 0  # in no sequence; subnormal garbage there would be slow
    bounds = zip(itertools.pairwise(offsets), itertools.pairwise(key_offsets), strict=True)
    for (start, end), (key_start, key_end) in bounds:
        if start == end:
            continue
        mask = None
        if window != _EVERYTHING:
            mask = _mask(key_end - key_start, window, query.device)[start - end :]
        q = query[start:end].transpose(0, 1)[None]
        k, v = (states[key_start:key_end].transpose(0, 1)[None] for states in (key, value))
        one = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        mixed[start:end] = one[0].transpose(0, 1)
    return mixed


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sides: _Sides,
    max_lengths: tuple[int, int],
    *,
    scale: float,
    window: Window,
) -> torch.Tensor:
    kernel, options = _flash_kernel()
    grouped = key.shape[1] != query.shape[1] and "enable_gqa" in options
    mixed: torch.Tensor = kernel(
        query,
        key,
        value,
        *sides,
        *max_lengths,
        scale=scale,
        window_size=window,
        **({"enable_gqa": True} if grouped else {}),
    )
    return mixed


@functools.cache
def _flash_kernel() -> tuple[Any, frozenset[str]]:
    """Return torch's kernel and its options, which differ between releases."""
    try:
        module = importlib.import_module("torch.nn.attention.varlen")
    except ModuleNotFoundError as exc:
        raise NotImplementedError(f"torch {torch.__version__} has no varlen_attn") from exc
    options = frozenset(inspect.signature(module.varlen_attn).parameters)
    if "scale" not in options:
        raise NotImplementedError(f"varlen_attn of torch {torch.__version__} takes no scale")
    return module.varlen_attn, options


def _efficient(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sides: _Sides,
    max_lengths: tuple[int, int],
    *,
    scale: float,
    window: Window,
) -> torch.Tensor:
    if window not in (_EVERYTHING, (-1, 0)):
        raise NotImplementedError("torch has no float32 kernel for windows over packed sequences")
    key, value = _repeated(query, key, value)
    mixed: torch.Tensor = torch.ops.aten._efficient_attention_forward(  # noqa: SLF001 - no public one
        query[None],
        key[None],
        value[None],
        None,
        *sides,
        *max_lengths,
        0.0,
        0 if window == _EVERYTHING else 2,  # 2: causal, the last token read being the own last
        compute_log_sumexp=False,
        scale=scale,
    )[0][0]
    return mixed


def _repeated(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    times = query.shape[1] // key.shape[1]
    if times == 1:
        return key, value
    return key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)


def _mask(length: int, window: Window, device: torch.device) -> torch.Tensor:
    """Return [length, length], true where the token of a row sees that of a column."""
    return _wide_mask(-(-length // _MASK_STEP) * _MASK_STEP, window, device)[:length, :length]


@functools.lru_cache(maxsize=8)
def _wide_mask(length: int, window: Window, device: torch.device) -> torch.Tensor:
    positions = torch.arange(length, device=device)
    distance = positions[:, None] - positions  # how far the column is before the row
    before, after = (length if side < 0 else side for side in window)
    return (distance <= before) & (distance >= -after)
