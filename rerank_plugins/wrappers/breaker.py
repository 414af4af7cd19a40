"""A backend that is left alone for a while when it keeps failing."""

from __future__ import annotations

from rerank_plugins._internal.checks import check_integer, check_number
from rerank_plugins._internal.circuit import CircuitBreaker
from rerank_plugins.backend import Backend
from rerank_plugins.content import Requests
from rerank_plugins.errors import BackendUnavailable, InvalidResponse
from rerank_plugins.hooks import BreakerChanged
from rerank_plugins.hooks._dispatch import dispatcher
from rerank_plugins.scores import Scores
from rerank_plugins.wrappers.base import Call, Flow, WrapperBackend

__all__ = ["CircuitBreakingBackend"]


class CircuitBreakingBackend(WrapperBackend):
    """Fails at once while the wrapped backend is down, instead of letting every caller wait.

    After `failures` calls in a row that end in `BackendUnavailable` or `InvalidResponse`, calls
    raise `BackendUnavailable` at once, with the seconds that are left in `retry_after`. After
    `cooldown` seconds one call goes through, as a probe: if it succeeds, so may all; if it fails,
    the next cooldown begins. Threads, tasks and event loops share the count.

    Refusals of the caller's input or key, and cancelled calls, are no sign of an outage and don't
    count. Neither does the result of a call that began before the circuit last opened or
    closed.

    Args:
        wrapped: the backend that scores.
        failures: how many calls in a row must fail.
        cooldown: seconds to leave the backend alone.

    Raises:
        ConfigError: an option is out of range.
    """

    table = "breaker"

    def __init__(self, wrapped: Backend, *, failures: int = 5, cooldown: float = 10.0) -> None:
        super().__init__(wrapped)
        check_integer("failures", failures)
        check_number("cooldown", cooldown, above=0, unit="seconds")
        self._failures = failures
        self._cooldown = cooldown
        self._circuit = CircuitBreaker(failures=failures, cooldown=cooldown)
        self._last_state = ""
        """The state of the last event."""

    def flow(self, requests: Requests) -> Flow:
        permit = self._circuit.try_enter()
        if permit is None:
            raise self._refusal()
        try:
            self._emit_state()
            scores: list[Scores] = yield Call(self.wrapped, requests)
            permit.succeed()
        except (BackendUnavailable, InvalidResponse):
            permit.fail()
            raise
        finally:
            permit.release()
            self._emit_state()
        return scores

    def _refusal(self) -> BackendUnavailable:
        seconds = self._circuit.retry_after
        if not seconds:
            return BackendUnavailable("the backend failed too often; one call is probing it now")
        return BackendUnavailable(
            f"the backend failed {self._failures} times in a row or more; the next call goes "
            f"through in {seconds:.3g} s",
            retry_after=seconds,
        )

    def _emit_state(self) -> None:
        state = self._circuit.state
        if (dispatch := dispatcher()) is not None and self._last_state != state:
            self._last_state = state
            dispatch(BreakerChanged(self.endpoint or self.label, state))
