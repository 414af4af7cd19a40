"""Pipes to and from another process that end when it does.

By itself a pipe ends when nobody holds its other end, and a process may leave children that do:
they inherit it from a fork, or as their standard input.
"""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Callable
from typing import BinaryIO

__all__ = ["PipeInput", "reader"]

_TICK = 0.25
"""Seconds between two looks whether the process lives, while the pipe is silent."""


class PipeInput:
    """The input of a process.

    Args:
        pipe: this end of the pipe, unbuffered.
        is_alive: whether the process lives.
    """

    def __init__(self, pipe: BinaryIO, is_alive: Callable[[], bool]) -> None:
        self._pipe = pipe
        self._is_alive = is_alive
        if sys.platform != "win32":
            os.set_blocking(pipe.fileno(), False)

    def write(self, data: bytes) -> None:
        """Write all of it, however slowly the process reads.

        Raises:
            OSError: the process is dead.
            ValueError: the pipe is closed.
        """
        rest = memoryview(data)
        while rest:
            file = self._pipe.fileno()
            if not _is_ready(file, _WRITABLE, _TICK):
                if not self._is_alive():
                    raise BrokenPipeError("the process is dead")
                continue
            try:
                rest = rest[os.write(file, rest) :]
            except BlockingIOError:  # it has room for less than the system writes at once
                continue


def reader(pipe: BinaryIO, is_alive: Callable[[], bool]) -> io.BufferedReader:
    """Return the output of a process, which ends when the process has and all is read.

    Args:
        pipe: this end of the pipe, unbuffered.
        is_alive: whether the process lives.
    """
    return io.BufferedReader(_PipeOutput(pipe, is_alive))


class _PipeOutput(io.RawIOBase):
    def __init__(self, pipe: BinaryIO, is_alive: Callable[[], bool]) -> None:
        self._pipe = pipe
        self._is_alive = is_alive

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._pipe.fileno()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # of any buffer
        file = self._pipe.fileno()
        while not _is_ready(file, _READABLE, _TICK):
            if not self._is_alive() and not _is_ready(file, _READABLE, 0.0):
                return 0
        data = os.read(file, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._pipe.close()
        super().close()


if sys.platform == "win32":
    _READABLE = _WRITABLE = 0

    def _is_ready(file: int, event: int, seconds: float) -> bool:  # noqa: ARG001  # can't be asked
        return True

else:
    _READABLE, _WRITABLE = select.POLLIN, select.POLLOUT

    def _is_ready(file: int, event: int, seconds: float) -> bool:
        """Return whether a pipe can be used now, or is at its end, within so many seconds."""
        poller = select.poll()
        poller.register(file, event)
        return bool(poller.poll(seconds * 1000))
