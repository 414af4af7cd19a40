"""The errors this package raises; the class answers "may I try again?".

RerankError
├── ConfigError (ValueError)             a setting is wrong: fix the configuration
├── MissingDependencyError (ImportError) an extra is not installed: install it
├── UnsupportedInputError (TypeError)    this query or document can't be scored: fix the input
├── DataError (ValueError)               a file or a dataset can't be read or used: fix the data
└── BackendError                         it broke, and would again; another backend may not
    ├── BackendUnavailable               not now: try again, after `retry_after` seconds if known
    │   ├── BackendCrashed               the model's process ended while it scored this
    │   ├── BackendTimeout               no answer within the deadline
    │   └── BackendOverloaded            too busy, or a rate limit
    ├── BackendRejected                  refused: the same request will be refused again
    │   └── AuthenticationError          the key is missing, wrong, or lacks a right
    ├── BackendOutOfMemory (MemoryError) one query and document alone do not fit into memory
    ├── DocumentQuarantined              a document keeps ending the model's process: leave it out
    └── InvalidResponse                  answered, but not with one valid score per document
"""

from __future__ import annotations

__all__ = [
    "AuthenticationError",
    "BackendCrashed",
    "BackendError",
    "BackendOutOfMemory",
    "BackendOverloaded",
    "BackendRejected",
    "BackendTimeout",
    "BackendUnavailable",
    "ConfigError",
    "DataError",
    "DocumentQuarantined",
    "InvalidResponse",
    "MissingDependencyError",
    "RerankError",
    "UnsupportedInputError",
]


class RerankError(Exception):
    """Base of every error this package raises."""


class ConfigError(RerankError, ValueError):
    """A setting is unknown, contradictory or out of range."""


class MissingDependencyError(RerankError, ImportError):
    """A feature needs a package that is not installed; the message names the extra."""


class UnsupportedInputError(RerankError, TypeError):
    """The query or a document is of a kind that can't be scored."""


class DataError(RerankError, ValueError):
    """A file of documents or a dataset can't be read or used; the message names the place."""


class BackendError(RerankError):
    """A backend could not give one valid score per document."""


class BackendUnavailable(BackendError):
    """The backend can't answer now; the same request may succeed later."""

    retry_after: float | None
    """How many seconds to wait, if the backend sent that; else None."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BackendCrashed(BackendUnavailable):
    """The process of the model ended while it scored the request, and maybe because of it."""


class BackendTimeout(BackendUnavailable):
    """No complete answer arrived within the deadline."""


class BackendOverloaded(BackendUnavailable):
    """The backend is too busy, or a rate limit was reached."""


class BackendRejected(BackendError):
    """The backend refused the request and will refuse it again."""

    status_code: int | None
    """HTTP status of the refusal, or None where there was none."""

    def __init__(self, message: str, *, status_code: int | None = None) -> None:
        super().__init__(message)
        self.status_code = status_code


class AuthenticationError(BackendRejected):
    """The key is missing, wrong, expired, banned, or lacks the right to this model."""


class BackendOutOfMemory(BackendError, MemoryError):
    """A single query and document do not fit into the memory of the device; batches shrink."""


class DocumentQuarantined(BackendError):
    """A document ended the model's process three times, so requests that hold it are refused."""

    document: int | None
    """Its index in the request."""

    def __init__(self, message: str, *, document: int | None = None) -> None:
        super().__init__(message)
        self.document = document


class InvalidResponse(BackendError):
    """The backend answered, but not with one finite score for each document."""
