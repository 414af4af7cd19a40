"""A backend that retries, within one deadline and without making an outage worse."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from random import uniform
from time import monotonic
from typing import Any

from rerank_plugins._internal import context as _context
from rerank_plugins._internal.checks import check_integer, check_number
from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins._internal.parallel import side_by_side
from rerank_plugins.backend import Backend
from rerank_plugins.content import Document, Query, Requests
from rerank_plugins.errors import BackendUnavailable, InvalidResponse
from rerank_plugins.hooks import Retried, outcome_of
from rerank_plugins.hooks._dispatch import emit
from rerank_plugins.scores import Scores
from rerank_plugins.wrappers._requests import checked_requests
from rerank_plugins.wrappers.base import Call, Flow, Sleep, Step, WrapperBackend

__all__ = ["MAX_RETRY_AFTER", "RetryingBackend"]

MAX_RETRY_AFTER = 30.0
"""The longest `Retry-After` that is honoured, in seconds; some servers ask for a year."""

_MAX_PARALLEL = 4
"""How many requests of one `score_many` are in flight at the same time."""

_FREE_RETRIES = 10.0
_MAX_SAVED_RETRIES = 100.0


class RetryingBackend(WrapperBackend):
    """Retries while the wrapped backend is unavailable; all attempts share one deadline.

    `BackendUnavailable` is retried, `InvalidResponse` once, any other error never: it would come
    again. Between attempts it waits as long as the server asks for, 30 s at most, plus a random
    time from 0 to the back-off, which doubles with each attempt ("full jitter": see Brooker,
    "Exponential Backoff And Jitter", AWS 2015). If the wait does not fit into the time left, the
    error is raised at once. The same holds when the retry budget is used up: in the long run
    there are at most `budget` retries per call, for all threads and tasks together, so that a
    server in trouble does not get three times its load. Up to 100 unused retries are kept for
    later; the first ten are free.

    The last error is raised, with a note on the number of attempts and why there is no other.

    `score_many` gives each request its own attempts and deadline, up to four side by side: all of
    them succeed, or the first error is raised.

    Args:
        wrapped: the backend that scores.
        attempts: the maximum number of attempts per request, the first included.
        deadline: seconds for all attempts of a request and the waits between them. A remote
            backend ends its attempt by then; give it a shorter `timeout` if one attempt must not
            use up the deadline.
        initial_backoff: longest wait in seconds after the first attempt.
        longest_backoff: longest wait in seconds after any attempt.
        budget: retries per call that are sustained; 0.1 is one retry for ten calls.

    Raises:
        ConfigError: an option is out of range.
    """

    table = "retry"

    def __init__(
        self,
        wrapped: Backend,
        *,
        attempts: int = 3,
        deadline: float = 10.0,
        initial_backoff: float = 0.1,
        longest_backoff: float = 2.0,
        budget: float = 0.1,
    ) -> None:
        super().__init__(wrapped)
        check_integer("attempts", attempts)
        check_number("deadline", deadline, above=0, unit="seconds")
        check_number("initial_backoff", initial_backoff, least=0, unit="seconds")
        check_number("longest_backoff", longest_backoff, least=0, unit="seconds")
        check_number("budget", budget, least=0)
        self._attempts = attempts
        self._deadline = deadline
        self._initial_backoff = initial_backoff
        self._longest_backoff = longest_backoff
        self._budget = budget
        self._retries = _Budget(budget)

    def score_many(self, requests: Requests) -> list[Scores]:
        score_many = super().score_many
        requests = list(requests)
        if len(requests) == 1:
            return score_many(requests)
        checked = checked_requests(self, requests)
        results = side_by_side(lambda request: score_many([request]), checked, _MAX_PARALLEL)
        return [scores for (scores,) in results]

    def flow(self, requests: Requests) -> Flow:
        scores = []
        for query, documents in requests:
            scores.append((yield from self._attempts_of(query, documents)))
        return scores

    def _attempts_of(
        self, query: str | Query, documents: Sequence[Document]
    ) -> Generator[Step, Any, Scores]:
        end = min(monotonic() + self._deadline, _context.deadline())
        self._retries.earn()
        attempt, invalid = 1, 0
        while True:
            try:
                with _context.until(end):
                    scores = yield Call(self.wrapped, [(query, documents)])
            except (BackendUnavailable, InvalidResponse) as error:
                invalid += isinstance(error, InvalidResponse)
                wait = self._wait(error, attempt)
                left = end - monotonic()
                if reason := self._reason_to_stop(attempt, invalid, wait, left):
                    error.add_note(f"attempt {attempt} of {self._attempts}; {reason}")
                    raise
                emit(Retried(attempt, outcome_of(error), wait))
            else:
                return scores[0]  # type: ignore[no-any-return]  # what `Call` gives
            yield Sleep(wait)
            attempt += 1

    def _wait(self, error: BackendUnavailable | InvalidResponse, attempt: int) -> float:
        """Return how long to wait after `attempt`, in seconds."""
        retry_after = getattr(error, "retry_after", None) or 0.0
        backoff = min(self._longest_backoff, self._initial_backoff * 2.0 ** min(attempt - 1, 60))
        return min(retry_after, MAX_RETRY_AFTER) + uniform(0.0, backoff)  # noqa: S311  # no secret

    def _reason_to_stop(self, attempt: int, invalid: int, wait: float, left: float) -> str:
        """Return why there is no other attempt; "" spends one retry of the budget."""
        if attempt >= self._attempts:
            return "it was the last"
        if invalid > 1:
            return "a second invalid response ends the retries"
        if wait >= left:
            return f"the next is due in {wait:.3g} s, but {max(left, 0.0):.3g} s are left"
        if not self._retries.spend():
            return "the retry budget is used up: too many calls fail"
        return ""


class _Budget:
    """A bucket that each call fills a little and each retry takes one from; thread-safe."""

    def __init__(self, per_call: float) -> None:
        self._per_call = per_call
        self._left = _FREE_RETRIES if per_call else 0.0
        self._lock = ForkSafeLock()

    def earn(self) -> None:
        with self._lock:
            self._left = min(self._left + self._per_call, _MAX_SAVED_RETRIES)

    def spend(self) -> bool:
        with self._lock:
            if self._left < 1.0 - 1e-9:  # ten times 0.1 is a little less
                return False
            self._left -= 1.0
            return True
