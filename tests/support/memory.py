"""The resident memory of a process. Linux only."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["resident"]


def resident(process: int) -> int:
    """Return how much of a process is in RAM, in bytes."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
