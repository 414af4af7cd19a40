"""What a process holds: sockets, files, tasks, memory. Linux only."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from pathlib import Path

from tests.support import memory


def sockets():
    """Count the open sockets of this process."""
    gc.collect()
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            count += str(link.readlink()).startswith("socket:")
        except OSError:  # closed meanwhile
            continue
    return count


def other_tasks():
    """Return the tasks of the running loop, except the one that asks."""
    return asyncio.all_tasks() - {asyncio.current_task()}


def resident():
    """Return the memory of this process that is in RAM, in bytes, without its garbage."""
    gc.collect()
    return memory.resident(os.getpid())


async def settled(condition, seconds=10.0):
    """Wait for `condition()`; return whether it holds before the time is up."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.01)
    return True
