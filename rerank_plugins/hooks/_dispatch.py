"""How events reach the hooks: a context variable, which threads and tasks of a call inherit."""

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
    """Hooks that hear the same events; what one raises stops neither the others nor the call."""

    def __init__(self, hooks: Iterable[Hook]) -> None:
        # Each hears an event once; equal ones are one, such as two with the same registry.
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
    except TypeError:  # a dataclass that keeps events, say: two that are equal now are still two
        return id(hook)
    return hook


_dispatcher: ContextVar[Dispatcher | None] = ContextVar("dispatcher", default=None)


def dispatcher() -> Dispatcher | None:
    """Return who listens; None if nobody does, and then no event need be made."""
    return _dispatcher.get()


def emit(event: Event) -> None:
    """Tell an event to those who listen."""
    if (told := _dispatcher.get()) is not None:
        told(event)


def merged(dispatchers: Iterable[Dispatcher | None]) -> Dispatcher | None:
    """Return a dispatcher to the hooks of them all; None if there are none."""
    known = list({id(one): one for one in dispatchers if one is not None}.values())
    if not known:
        return None
    first, *others = known
    return Dispatcher(hook for one in known for hook in one.hooks) if others else first


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


@contextmanager
def observe_call(hooks: Iterable[Hook], started: CallStarted) -> Iterator[None]:
    """Tell `hooks` the beginning and the end of this block, and all that happens in it.

    Hooks that listen already go on to hear what happens inside.
    """
    own, outer = Dispatcher(hooks), _dispatcher.get()
    _context.told_to(own)
    own(started)
    heard = own if outer is None else Dispatcher((*outer.hooks, *own.hooks))
    token = _dispatcher.set(heard)
    start, error = perf_counter(), None
    try:
        with _context.scorer() as scorer:
            yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        _context.restore(_dispatcher, token)
        if scorer.name is not None:
            _context.scored_by(scorer.name)
        own(CallFinished(started, outcome_of(error), perf_counter() - start, scorer.name))


class AttemptFacts:
    """What a request to a server and its hooks tell each other."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        """What the hooks want to be sent along."""
        self.status_code: int | None = None
        """The status of the reply."""


@contextmanager
def observe_attempt(endpoint: str, documents: int, facts: AttemptFacts) -> Iterator[None]:
    """Tell those who listen that this block asks a server, and how that ends."""
    told = _dispatcher.get()
    if told is None:
        yield
        return
    started = AttemptStarted(endpoint, documents, facts.headers)
    told(started)
    start, error = perf_counter(), None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        seconds = perf_counter() - start
        told(AttemptFinished(started, outcome_of(error), seconds, facts.status_code))
