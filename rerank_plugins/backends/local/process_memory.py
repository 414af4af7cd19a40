"""The memory of this process: how much it takes, and handing freed memory back."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

__all__ = ["release_memory", "resident_memory"]

_STATM = Path("/proc/self/statm")


def resident_memory() -> dict[str, int]:
    """Return the bytes in use as `resident`; empty where the system does not report them."""
    try:
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
    except OSError:
        return {}
    return {"resident": pages * os.sysconf("SC_PAGE_SIZE")}


def release_memory() -> None:
    """Return freed memory to the system, where the C library would keep it (glibc)."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none, and keeps little
        if trim is not None:
            trim(ctypes.c_size_t(0))
