"""How events reach hooks: by a context variable, which the threads and tasks of a call inherit."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter

from rerank_plugins._internal import context as _context
from rerank_plugins._internal.throttle import Throttle
from rerank_plugins.hooks.events import (
    AttemptFinished,
    AttemptStarted,
    CallFinished,
    CallStarted,
    Event,
    Hook,
    outcome_of,
)

__all__ = [
    "AttemptFacts",
    "CallFacts",
    "Dispatcher",
    "dispatch_to",
    "dispatcher",
    "emit",
    "merged",
    "observe_attempt",
    "observe_call",
]

_logger = logging.getLogger("rerank_plugins.hooks")
_may_warn = Throttle()


class Dispatcher:
    """Passes events to hooks; what one raises stops neither the others nor the call."""

    def __init__(self, hooks: Iterable[Hook]) -> None:
        # Equal hooks, such as two with the same registry, receive an event once.
        self.hooks = tuple({_identity(hook): hook for hook in hooks}.values())

    def __call__(self, event: Event) -> None:
        for hook in self.hooks:
            try:
                hook(event)
            except Exception as error:  # noqa: BLE001  # whatever a user's hook may raise
                if _may_warn():
                    _logger.warning(
                        "the hook %s failed at %s: %s",
                        type(hook).__name__,
                        type(event).__name__,
                        type(error).__name__,
                    )


def _identity(hook: Hook) -> object:
    try:
        hash(hook)
    except TypeError:  # such as a dataclass that collects events: equal now, but not the same
        return id(hook)
    return hook


_dispatcher: ContextVar[Dispatcher | None] = ContextVar("dispatcher", default=None)


def dispatcher() -> Dispatcher | None:
    """Return what passes events to the hooks of this call; None if it has no hooks."""
    return _dispatcher.get()


def emit(event: Event) -> None:
    """Pass an event to the hooks of this call."""
    if (dispatch := _dispatcher.get()) is not None:
        dispatch(event)


def merged(dispatchers: Iterable[Dispatcher | None]) -> Dispatcher | None:
    """Return one dispatcher to all their hooks; None if there are none."""
    distinct = list({id(one): one for one in dispatchers if one is not None}.values())
    if not distinct:
        return None
    first, *others = distinct
    return Dispatcher(hook for one in distinct for hook in one.hooks) if others else first


@contextmanager
def dispatch_to(dispatchers: Iterable[Dispatcher | None]) -> Iterator[None]:
    """Emit what happens in this block to the hooks of all the calls for which it is done.

    Args:
        dispatchers: what `dispatcher()` returned in each of them.
    """
    token = _dispatcher.set(merged(dispatchers))
    try:
        yield
    finally:
        _context.restore(_dispatcher, token)


class CallFacts:
    """What the block of a call learns about its scores; see `CallFinished`."""

    def __init__(self) -> None:
        self.scored_by: str | None = None
        self.tokens: int | None = None
        self.truncated = 0
        self.cached = 0


@contextmanager
def observe_call(hooks: Iterable[Hook], started: CallStarted) -> Iterator[CallFacts]:
    """Pass to `hooks` the beginning and the end of this block, and what happens in it.

    The hooks of the calls around it receive what happens in it, too. The block sets the facts of
    its scores.
    """
    own, outer = Dispatcher(hooks), _dispatcher.get()
    facts = CallFacts()
    own(started)
    token = _dispatcher.set(merged((outer, own)))
    start, error = perf_counter(), None
    try:
        yield facts
    except BaseException as raised:
        error = raised
        raise
    finally:
        _context.restore(_dispatcher, token)
        seconds = perf_counter() - start
        own(
            CallFinished(
                started,
                outcome_of(error),
                seconds,
                scored_by=facts.scored_by,
                tokens=facts.tokens,
                truncated=facts.truncated,
                cached=facts.cached,
            )
        )


class AttemptFacts:
    """What a request to a server and its hooks learn from each other."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        """Headers that the hooks add."""
        self.status_code: int | None = None
        """The status of the response."""


@contextmanager
def observe_attempt(endpoint: str, documents: int, facts: AttemptFacts) -> Iterator[None]:
    """Emit the beginning and the end of this block, which sends a request to a server."""
    dispatch = _dispatcher.get()
    if dispatch is None:
        yield
        return
    started = AttemptStarted(endpoint, documents, facts.headers)
    dispatch(started)
    start, error = perf_counter(), None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        seconds = perf_counter() - start
        dispatch(AttemptFinished(started, outcome_of(error), seconds, facts.status_code))
