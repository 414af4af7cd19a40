"""The events that hooks hear: facts and counts, never a text, a key or a score."""

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
    "outcome_of",
]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class CallStarted:
    """A caller asks for scores."""

    route: str
    """Who calls, as the user named it: `"library"`, or the path of a server's route."""
    kind: str
    """The kind of backend, such as `"xinference"`; of a chain, its first."""
    model: str | None
    """Its model, if the configuration names one."""
    queries: int
    """How many requests the call holds."""
    documents: int
    """How many documents they hold together."""


@dataclass(frozen=True, slots=True)
class CallFinished:
    """The caller has scores, or an error."""

    started: CallStarted
    """The event with which it began; the same object."""
    outcome: str
    """`"ok"`, or what `outcome_of()` says of the error."""
    seconds: float
    """How long it took."""
    scored_by: str | None = None
    """The name of the backend that scored, where there was a choice."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class AttemptStarted:
    """A request is sent to a server. A call may take several, one after another or at once."""

    endpoint: str
    """The server's `host:port`."""
    documents: int
    """How many documents the request holds."""
    headers: MutableMapping[str, str] = field(default_factory=dict)
    """Headers that a hook wants to be sent, such as `traceparent`; none replaces ours."""


@dataclass(frozen=True, slots=True)
class AttemptFinished:
    """A request has been answered, or has failed."""

    started: AttemptStarted
    """The event with which it began; the same object."""
    outcome: str
    """`"ok"`, or what `outcome_of()` says of the error."""
    seconds: float
    """How long it took."""
    status_code: int | None = None
    """The HTTP status, if there was a reply."""


@dataclass(frozen=True, slots=True)
class Retried:
    """An attempt failed, and another one follows."""

    attempt: int
    """The number of the attempt that failed, from 1."""
    reason: str
    """What `outcome_of()` says of its error."""
    wait: float
    """Seconds until the next."""


@dataclass(frozen=True, slots=True)
class FellBack:
    """A backend failed, and something else takes its place."""

    reason: str
    """What `outcome_of()` says of the error."""
    to: Literal["backend", "original_order"]
    """The next backend of a chain, or the order in which the documents came."""


@dataclass(frozen=True, slots=True)
class BreakerChanged:
    """A circuit breaker is in another state than before; the first call tells the first one."""

    endpoint: str
    """The server's `host:port`, or the kind of backend that is no server."""
    state: Literal["closed", "half_open", "open"]
    """`"closed"`: calls pass. `"open"`: none does. `"half_open"`: one tries it out."""


@dataclass(frozen=True, slots=True)
class CacheLookedUp:
    """Pairs were looked up in a cache."""

    tier: str
    """The kind of store: `"memory"`, `"sqlite"`, `"redis"`, or the class of another."""
    result: Literal["hit", "shared", "miss", "damaged"]
    """From the store, from another caller, from the model; damaged ones are misses as well."""
    pairs: int
    """How many (query, document) pairs."""


@dataclass(frozen=True, slots=True)
class Split:
    """A request is sent in parts, because a server does not take it whole."""

    endpoint: str
    """The server's `host:port`."""
    documents: int
    """How many documents the request holds."""
    parts: int
    """Into how many it is split."""


@dataclass(frozen=True, slots=True)
class Truncated:
    """Documents are cut because they are too long. What servers cut, they don't tell."""

    documents: int
    """How many."""


@dataclass(frozen=True, slots=True)
class Computed:
    """A local model has scored pairs; calls whose pairs it scored together all hear of them."""

    model: str
    """The id of the model on the hub, or the name of its folder."""
    tokens: int
    """How many it read, padding included."""
    padding: int
    """How many of these only fill up batches."""
    memory: Mapping[str, int]
    """Bytes that its process takes now: on CUDA `allocated`, `reserved` and `peak`, as torch calls
    them; else `resident`."""


@dataclass(frozen=True, slots=True)
class Dequeued:
    """The first documents of a request leave the scheduler's queue for a batch."""

    seconds: float
    """How long they waited."""


@dataclass(frozen=True, slots=True)
class BatchFinished:
    """A batch was scored or failed, or a part of one that was split.

    The calls that share it all hear of it.
    """

    documents: int
    """How many documents it has."""
    tokens: int
    """How many tokens they have together, estimated."""
    outcome: str
    """`"ok"`, or what `outcome_of()` says of the error."""
    seconds: float
    """How long it took."""


@dataclass(frozen=True, slots=True)
class BatchShrunk:
    """Memory ran out, so later batches are smaller."""

    tokens: int
    """The most tokens that a batch has from now on, estimated."""


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
    | Computed
    | Dequeued
    | BatchFinished
    | BatchShrunk
    | Dropped
)


class Hook(Protocol):
    """Hears what happens, in the thread or task in which it happens, before that goes on.

    It must be quick, and safe to share between threads. What it raises is logged and forgotten:
    a hook never fails a call. There may be events of other classes in later versions.
    """

    def __call__(self, event: Event, /) -> None:
        """Take note of an event."""


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
    """Return the one of a dozen words that says how something ended; None is `"ok"`."""
    if error is None:
        return "ok"
    return next((word for kind, word in _OUTCOMES if isinstance(error, kind)), "error")
