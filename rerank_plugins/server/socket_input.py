"""What waits in a socket to be read."""

from __future__ import annotations

import sys

__all__ = ["unread_bytes"]


def unread_bytes(file: int) -> int:
    """Return how many bytes a socket could give at once; 0 for a closed one, and on Windows."""
    if sys.platform == "win32":
        return 0
    import fcntl  # noqa: PLC0415  # not on Windows
    import termios  # noqa: PLC0415

    try:
        return int.from_bytes(fcntl.ioctl(file, termios.FIONREAD, bytes(4)), sys.byteorder)
    except (OSError, ValueError):  # it is closed, so its number is another's, or -1
        return 0
