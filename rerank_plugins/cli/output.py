"""Writing a command's output, and the error when that fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["OutputError", "printing"]


class OutputError(Exception):
    """The output can't be written, for example because the disk is full."""


@contextmanager
def printing() -> Iterator[None]:
    """Flush standard output at the end; its failures get an error of their own.

    Raises:
        BrokenPipeError: the reader has closed the pipe, as in `… | head -1`.
        OutputError: the output can't be written.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # Python flushes the rest of the buffer when it ends: send that to nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputError(f"can't write the output: {error.strerror or error}") from error
