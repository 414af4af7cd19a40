"""Numbers in 4 bits, in blocks that share a scale (llama.cpp's format Q4_0)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["unpack"]

_BYTES = 18
"""Of a block of 32 numbers: a float16 scale, then 16 bytes with two numbers each."""
_MIDDLE = 8


def unpack(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the numbers of rows of whole blocks: rows x (32 for each block).

    Each byte holds a number of the first half of its block in its low 4 bits, and one of the second
    half in its high ones.
    """
    parts = blocks.reshape(len(blocks), -1, _BYTES)
    scales = parts[..., :2].copy().view("<f2").astype(np.float32)
    halves = parts[..., 2:]
    numbers = np.concatenate([halves & 15, halves >> 4], axis=-1).astype(np.float32) - _MIDDLE
    return (numbers * scales).reshape(len(blocks), -1)
