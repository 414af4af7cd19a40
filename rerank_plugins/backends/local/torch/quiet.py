"""What transformers shows while it loads and saves models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging as transformers_logging

__all__ = ["quiet"]


@contextmanager
def quiet(*, warnings: bool) -> Iterator[None]:
    """Let transformers show no progress bars, and maybe no warnings."""
    library: Any = transformers_logging  # parts of it have no types
    bars, verbosity = library.is_progress_bar_enabled(), library.get_verbosity()
    library.disable_progress_bar()
    if not warnings:
        library.set_verbosity_error()
    try:
        yield
    finally:
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()
