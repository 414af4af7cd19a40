"""Recognising out-of-memory errors of ONNX Runtime, C++ and Python."""

from __future__ import annotations

__all__ = ["is_out_of_memory"]

_NO_MEMORY = (
    "Failed to allocate memory",  # ONNX Runtime's arena
    "bad allocation",
    "bad_alloc",
    "can't start new thread",  # for which there is no stack
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)
