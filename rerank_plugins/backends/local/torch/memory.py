"""How much memory this process takes."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["resident_memory"]

_STATM = Path("/proc/self/statm")


def resident_memory() -> dict[str, int]:
    """Return the bytes as `resident`; nothing where the system does not say."""
    try:
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
    except OSError:
        return {}
    return {"resident": pages * os.sysconf("SC_PAGE_SIZE")}
