"""Writing what a command prints, and what it means when that fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["OutputError", "printing"]


class OutputError(Exception):
    """The output can't be written: the disk is full, perhaps."""


@contextmanager
def printing() -> Iterator[None]:
    """Flush standard output at the end; tell its failures from those of everything else.

    Raises:
        BrokenPipeError: the reader has what it wants, as in `… | head -1`.
        OutputError: the output can't be written.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer has to go somewhere when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputError(f"can't write the output: {error.strerror or error}") from error
