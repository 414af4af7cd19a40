"""How many processors this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["usable_cpus"]

_MEMBERSHIP = Path("/proc/self/cgroup")
"""Lists the control groups of this process, as `hierarchy:controllers:path`."""
_MOUNT = Path("/sys/fs/cgroup")


def usable_cpus() -> int:
    """Return the number of processors this process may use, at least 1.

    It is what the affinity allows (`taskset`, cpusets), or the CPU quota of the container or of
    any control group around it, rounded down, where that is less.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return max(1, int(min([allowed, *_quotas()])))


def _quotas() -> Iterator[float]:
    """Yield the limits of all control groups around this process, in processors."""
    for controllers, path in _groups():
        if controllers == "":  # version 2 has one hierarchy
            hierarchies, read = [_MOUNT, _MOUNT / "unified"], _quota_v2
        elif "cpu" in controllers.split(","):
            hierarchies, read = [_MOUNT / controllers, _MOUNT / "cpu"], _quota_v1
        else:
            continue
        root = next((folder for folder in hierarchies if folder.is_dir()), None)
        if root is None:
            continue
        # A container may see its own group as the root, whatever path it has outside.
        relative = Path(path.strip("/"))
        for folder in {root / relative, *(root / parent for parent in relative.parents), root}:
            quota = read(folder)
            if quota is not None:
                yield quota


def _groups() -> Iterator[tuple[str, str]]:
    try:
        lines = _MEMBERSHIP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        yield controllers, path


def _quota_v2(folder: Path) -> float | None:
    return _ratio(_words(folder / "cpu.max"))


def _quota_v1(folder: Path) -> float | None:
    return _ratio([*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")])


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return []


def _ratio(words: list[str]) -> float | None:
    """Return quota / period; None where there is no limit, which is "max" or -1."""
    try:
        quota, period = map(int, words)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None
