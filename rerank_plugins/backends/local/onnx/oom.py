"""How ONNX Runtime, C++ and Python say that memory is short."""

from __future__ import annotations

__all__ = ["is_out_of_memory"]

_NO_MEMORY = (
    "Failed to allocate memory",  # ONNX Runtime's arena
    "bad allocation",
    "bad_alloc",
    "can't start new thread",  # which needs a stack
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory was short."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)
