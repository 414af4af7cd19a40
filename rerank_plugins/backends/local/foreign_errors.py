"""What libraries raise at a model's files and at its work, as errors of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rerank_plugins.backends.local.out_of_memory import is_out_of_memory
from rerank_plugins.errors import BackendError, ConfigError, RerankError

__all__ = ["load_errors", "reason_of", "score_errors"]

_LONGEST = 300
"""Most characters of a library's own words in a message."""


def reason_of(exc: BaseException) -> str:
    """Return a library's words in one line, cut where they become a page."""
    text = " ".join(str(exc).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST].rstrip()} …"


@contextmanager
def load_errors(model: str) -> Iterator[None]:
    """Translate what is raised while a model loads.

    The files come from elsewhere, and a damaged one makes libraries raise anything.

    Raises:
        ConfigError: a library can't load the files.
        BackendError: memory ran out.
    """
    try:
        yield
    except BaseException as exc:
        if not _is_foreign(exc):
            raise
        if is_out_of_memory(exc):
            raise BackendError(
                f"the model {model!r} does not fit into memory; choose a smaller one"
            ) from exc
        reason = f"{type(exc).__name__}: {reason_of(exc)}"
        if isinstance(exc, ImportError):
            raise ConfigError(
                f"the model {model!r} needs a package that is not installed: {reason}"
            ) from exc
        raise ConfigError(
            f"the model {model!r} can't be loaded; its files may be damaged, so download it again: "
            f"{reason}"
        ) from exc


@contextmanager
def score_errors(model: str) -> Iterator[None]:
    """Translate what is raised while a model scores; the message holds none of its texts.

    Raises:
        BackendError: a library failed.
        MemoryError: memory ran out.
    """
    try:
        yield
    except BaseException as exc:
        if not _is_foreign(exc):
            raise
        if isinstance(exc, MemoryError):
            raise
        if is_out_of_memory(exc):
            raise MemoryError(f"memory ran out in the model {model!r}") from exc
        raise BackendError(f"the model {model!r} failed with {type(exc).__name__}") from exc


def _is_foreign(error: BaseException) -> bool:
    """Whether a library raised it: neither an error of ours, nor an interruption."""
    if isinstance(error, Exception):
        return not isinstance(error, RerankError)
    return type(error).__name__ == "PanicException"  # of libraries written in Rust
