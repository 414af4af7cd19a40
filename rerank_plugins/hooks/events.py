"""The events that hooks receive: facts and counts, never a text, a key or a score."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from rerank_plugins import errors

__all__ = [
    "AttemptFinished",
    "AttemptStarted",
    "BatchFinished",
    "BatchShrunk",
    "BreakerChanged",
    "CacheLookedUp",
    "CallFinished",
    "CallStarted",
    "Computed",
    "Dequeued",
    "Dropped",
    "Event",
    "FellBack",
    "Hook",
    "Retried",
    "Split",
    "Truncated",
    "Windowed",
    "outcome_of",
]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class CallStarted:
    """A call begins."""

    route: str
    """Where the call comes from: the `route` of `InstrumentedBackend`."""
    kind: str
    """The kind of backend, such as `"xinference"`; of a chain, that of its first backend."""
    model: str | None
    """Its model, if the configuration names one."""
    queries: int
    """How many requests the call has."""
    documents: int
    """How many documents the requests have together."""


@dataclass(frozen=True, slots=True)
class CallFinished:
    """A call has ended with scores or an error."""

    started: CallStarted
    """The event of its beginning; the same object."""
    outcome: str
    """`"ok"`, or the word of `outcome_of()` for the error."""
    seconds: float
    """How long it took."""
    scored_by: str | None = None
    """The `name` of the backend that scored, where there are several."""
    tokens: int | None = None
    """How many tokens were read, where the backend counts them."""
    truncated: int = 0
    """How many documents were truncated, as far as the backend reports."""
    cached: int = 0
    """How many scores came from a cache."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class AttemptStarted:
    """A request is sent to a server. A call may send several, one after another or at once."""

    endpoint: str
    """The server's `host:port`."""
    documents: int
    """How many documents the request has."""
    headers: MutableMapping[str, str] = field(default_factory=dict)
    """Headers that hooks add, such as `traceparent`; they can't replace those of the request."""


@dataclass(frozen=True, slots=True)
class AttemptFinished:
    """A request has been answered, or has failed."""

    started: AttemptStarted
    """The event of its beginning; the same object."""
    outcome: str
    """`"ok"`, or the word of `outcome_of()` for the error."""
    seconds: float
    """How long it took."""
    status_code: int | None = None
    """The HTTP status, if there was a response."""


@dataclass(frozen=True, slots=True)
class Retried:
    """An attempt failed, and another one follows."""

    attempt: int
    """The number of the attempt that failed, from 1."""
    reason: str
    """The word of `outcome_of()` for its error."""
    wait: float
    """Seconds until the next attempt."""


@dataclass(frozen=True, slots=True)
class FellBack:
    """A backend failed, and something else takes its place."""

    reason: str
    """The word of `outcome_of()` for the error."""
    to: Literal["backend", "original_order"]
    """The next backend of a chain, or the order in which the documents came."""


@dataclass(frozen=True, slots=True)
class BreakerChanged:
    """A circuit breaker has changed its state; its first call reports the state it starts with."""

    endpoint: str
    """The server's `host:port`, or the label of a backend that is no server."""
    state: Literal["closed", "half_open", "open"]
    """`"closed"`: calls pass. `"open"`: none does. `"half_open"`: one passes, as a probe."""


@dataclass(frozen=True, slots=True)
class CacheLookedUp:
    """Pairs were looked up in a cache."""

    tier: str
    """The kind of store: `"memory"`, `"sqlite"`, `"redis"`, or the class of another."""
    result: Literal["hit", "shared", "miss", "damaged"]
    """Where the scores come from: the store, another caller, or the model.

    Damaged values in the store are counted once more, as misses.
    """
    pairs: int
    """How many (query, document) pairs."""


@dataclass(frozen=True, slots=True)
class Split:
    """A request is sent in parts, because it is too large for a server."""

    endpoint: str
    """The server's `host:port`."""
    documents: int
    """How many documents the request has."""
    parts: int
    """Into how many parts it is split."""


@dataclass(frozen=True, slots=True)
class Truncated:
    """Documents were cut because they are too long; most servers don't report it."""

    documents: int
    """How many."""


@dataclass(frozen=True, slots=True)
class Windowed:
    """Documents were read in windows because they are long."""

    documents: int
    """How many."""
    windows: int
    """How many windows they have together."""


@dataclass(frozen=True, slots=True)
class Computed:
    """A local model has scored pairs; all calls whose pairs it scored together receive this."""

    model: str
    """The id of the model on the hub, or the name of its folder."""
    tokens: int
    """How many tokens it read, padding included."""
    padding: int
    """How many of these are padding."""
    memory: Mapping[str, int]
    """Bytes that its process uses now: on CUDA `allocated`, `reserved` and `peak`, as torch calls
    them; else `resident`."""


@dataclass(frozen=True, slots=True)
class Dequeued:
    """The first documents of a request leave the scheduler's queue for a batch."""

    seconds: float
    """How long they waited."""


@dataclass(frozen=True, slots=True)
class BatchFinished:
    """A batch was scored or failed, or a part of one that was split.

    All calls that share it receive this.
    """

    documents: int
    """How many documents it has."""
    tokens: int
    """How many tokens these have together, estimated."""
    outcome: str
    """`"ok"`, or the word of `outcome_of()` for the error."""
    seconds: float
    """How long it took."""


@dataclass(frozen=True, slots=True)
class BatchShrunk:
    """Memory ran out, so later batches are smaller."""

    tokens: int
    """The maximum number of tokens of a batch from now on, estimated."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Documents leave the queue without a score: their request was cancelled or failed."""

    documents: int
    """How many."""


Event: TypeAlias = (
    CallStarted
    | CallFinished
    | AttemptStarted
    | AttemptFinished
    | Retried
    | FellBack
    | BreakerChanged
    | CacheLookedUp
    | Split
    | Truncated
    | Windowed
    | Computed
    | Dequeued
    | BatchFinished
    | BatchShrunk
    | Dropped
)
"""What a hook receives."""


class Hook(Protocol):
    """Receives events, in the thread or task in which they happen, before that goes on.

    It must be quick, and safe to share between threads. What it raises is logged: a hook never
    fails a call. Later versions may have events of other classes.
    """

    def __call__(self, event: Event, /) -> None:
        """Receive an event."""


_OUTCOMES: tuple[tuple[type[BaseException], str], ...] = (  # the first that fits
    (errors.BackendTimeout, "timeout"),
    (errors.BackendOverloaded, "overloaded"),
    (errors.BackendUnavailable, "unavailable"),
    (errors.AuthenticationError, "authentication"),
    (errors.BackendRejected, "rejected"),
    (errors.InvalidResponse, "invalid_response"),
    (MemoryError, "out_of_memory"),
    (errors.BackendError, "backend_error"),
    (errors.UnsupportedInputError, "unsupported_input"),
    (errors.ConfigError, "config"),
    (errors.MissingDependencyError, "config"),
    (asyncio.CancelledError, "cancelled"),
    (GeneratorExit, "cancelled"),
)


def outcome_of(error: BaseException | None) -> str:
    """Return the word for how something ended: `"ok"` for None, else one of a dozen."""
    if error is None:
        return "ok"
    return next((word for kind, word in _OUTCOMES if isinstance(error, kind)), "error")
