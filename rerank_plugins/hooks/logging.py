"""Events as lines of Python's own `logging`."""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import Any

from rerank_plugins._internal.checks import check_number
from rerank_plugins.hooks.events import (
    AttemptFinished,
    BreakerChanged,
    CallFinished,
    Event,
    FellBack,
    Retried,
    Split,
)

__all__ = ["LoggingHook"]

_logger = logging.getLogger("rerank_plugins.calls")


class LoggingHook:
    """Writes a line for each call, attempt, retry and change of a breaker.

    The logger is `rerank_plugins.calls`; the application sets its handlers, formats and level.
    The facts are in the message and, for JSON formatters, in the record's `rerank`, a mapping.

    Failed or slow calls, failed attempts, fallbacks and breakers that open are warnings; retries,
    other changes of breakers and cancelled calls have the level INFO, everything else DEBUG.

    Args:
        slow: a call that takes so many seconds or more is a warning; `inf` for never.

    Raises:
        ConfigError: `slow` is negative or not a number.
    """

    def __init__(self, *, slow: float = math.inf) -> None:
        check_number("slow", slow, least=0, finite=False, unit="seconds")
        self._slow = slow

    def __call__(self, event: Event, /) -> None:
        match event:
            case CallFinished(started, outcome, seconds):
                level = (
                    logging.WARNING if outcome != "ok" or seconds >= self._slow else logging.DEBUG
                )
                _write(
                    level if outcome != "cancelled" else logging.INFO,
                    "call",
                    route=started.route,
                    kind=started.kind,
                    model=started.model,
                    queries=started.queries,
                    documents=started.documents,
                    outcome=outcome,
                    seconds=round(seconds, 6),
                    scored_by=event.scored_by,
                    tokens=event.tokens,
                    truncated=event.truncated or None,
                    cached=event.cached or None,
                )
            case AttemptFinished(started, outcome, seconds, status_code):
                _write(
                    logging.DEBUG if outcome in {"ok", "cancelled"} else logging.WARNING,
                    "attempt",
                    endpoint=started.endpoint,
                    documents=started.documents,
                    outcome=outcome,
                    status_code=status_code,
                    seconds=round(seconds, 6),
                )
            case Retried(attempt, reason, wait):
                _write(logging.INFO, "retry", attempt=attempt, reason=reason, wait=round(wait, 3))
            case FellBack(reason, to):
                _write(logging.WARNING, "fallback", reason=reason, to=to)
            case BreakerChanged(endpoint, state):
                level = logging.WARNING if state == "open" else logging.INFO
                _write(level, "breaker", endpoint=endpoint, state=state)
            case Split(endpoint, documents, parts):
                _write(logging.DEBUG, "split", endpoint=endpoint, documents=documents, parts=parts)

    def __reduce__(self) -> tuple[object, ...]:
        return partial(LoggingHook, slow=self._slow), ()


def _write(level: int, what: str, **facts: Any) -> None:
    if _logger.isEnabledFor(level):
        present = {name: value for name, value in facts.items() if value is not None}
        text = " ".join(f"{name}={value}" for name, value in present.items())
        _logger.log(level, "%s %s", what, text, extra={"rerank": {"event": what, **present}})
