"""A self-check at load: random pairs that show whether an optimisation keeps the scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rerank_plugins.backends.local.checkpoint import Checkpoint
from rerank_plugins.backends.local.tokenizer import Pairs

__all__ = ["CHECK_ERRORS", "find_difference", "make_check_pairs"]

CHECK_ERRORS = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
"""What a model raises where an optimisation does not suit it."""

_TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-4}
_HALF_TOLERANCE = 5e-2

_LENGTHS = (5, 17, 47)
"""Odd, because some models pad inside to a multiple of their attention's window."""
_SHARED = 20
_NO_SPECIAL_TOKEN = 10  # ids below are mostly special tokens


def make_check_pairs(config: Any, checkpoint: Checkpoint) -> Pairs:
    """Return three pairs of random tokens, the longest longer than the attention window.

    For a language model they have a common prefix, as the prompts of one query do.

    Args:
        config: the configuration of the transformers model.
        checkpoint: says how long a pair may be, and whether types are used.
    """
    window = getattr(config, "sliding_window", None) or 0
    text_lengths = (*_LENGTHS[:-1], max(_LENGTHS[-1], window + 24))
    shared = min(_SHARED, checkpoint.max_length - 1) if checkpoint.is_decoder else 0
    lengths = [min(shared + length, checkpoint.max_length) for length in text_lengths]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    vocabulary = config.get_text_config().vocab_size
    ids = np.random.default_rng(0).integers(_NO_SPECIAL_TOKEN, vocabulary, offsets[-1])
    types = np.concatenate([np.arange(length) >= length // 3 for length in lengths])
    for start in offsets[1:-1]:
        ids[start : start + shared] = ids[:shared]
    if getattr(config, "is_encoder_decoder", False) and isinstance(config.eos_token_id, int):
        ids[offsets[1:] - 1] = config.eos_token_id  # their heads read the state of that token
    return Pairs(
        ids.astype(np.int32),
        (types & checkpoint.uses_types).astype(np.int32),
        offsets,
        np.zeros(len(lengths), dtype=np.int64),
        np.full(len(lengths), shared),
    )


def find_difference(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> str | None:
    """Return how scores differ from the expected ones, as words; None if they are close enough.

    Args:
        actual: the scores, [n].
        expected: the expected scores, [n].
        dtype: of the model; it decides the tolerance.
    """
    error = (actual.double() - expected.double()).abs().max().item()
    allowed = _TOLERANCES.get(dtype, _HALF_TOLERANCE) * max(1.0, expected.abs().max().item())
    return None if error <= allowed else f"scores would differ by {error:.1e}"
