"""Recognising that memory ran out, in whatever words a library says so."""

from __future__ import annotations

import re

__all__ = ["is_out_of_memory"]

_NO_MEMORY = re.compile(
    "out of memory"  # CUDA, MPS, and the GPU libraries of others
    "|_ALLOC_FAILED|_ALLOCATION_FAILED"  # cuBLAS, cuDNN
    "|can't allocate memory|cannot allocate memory"  # torch on a processor, the C library
    "|not enough memory"  # torch on Windows
    "|could not (create|initialize) a (primitive|memory object)(?! desc)"  # oneDNN
    "|failed to allocate memory"  # ONNX Runtime's arena
    "|insufficient memory"  # MKL
    "|bad allocation|bad_alloc"  # C++
    "|can't start new thread",  # for which there is no stack
    re.IGNORECASE,
)
"""oneDNN does not tell why it could not create a primitive. Unknown ones fail earlier, at their
descriptor, so memory is all that can be missing."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on any device."""
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None
