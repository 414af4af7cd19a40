"""A backend whose calls are events for hooks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

from rerank_plugins.backend import Backend
from rerank_plugins.content import Requests
from rerank_plugins.errors import ConfigError
from rerank_plugins.hooks import CallStarted, Hook, open_hook
from rerank_plugins.hooks._dispatch import observe_call
from rerank_plugins.scores import Scores
from rerank_plugins.wrappers.base import Call, Flow, WrapperBackend

__all__ = ["InstrumentedBackend"]


class InstrumentedBackend(WrapperBackend):
    """Emits each call and what happens in it to hooks: attempts, retries, fallbacks, look-ups.

    It belongs outermost. Events of the backends inside reach the hooks from all threads and tasks
    that work for the call. A hook that fails is logged, once a minute, and fails no call.

    Args:
        wrapped: the backend that scores.
        hooks: what receives the events: specs for `open_hook()`, such as `"prometheus"`, or
            anything that can be called with an event (see `rerank_plugins.hooks.Hook`).
        route: the name of these calls in metrics and traces; it distinguishes the uses of
            rerankers in a process.

    Raises:
        ConfigError: there is no hook, or a spec is malformed, or `route` is empty.
        MissingDependencyError: a hook needs an extra that is not installed.
    """

    table = "instrument"

    def __init__(
        self, wrapped: Backend, *, hooks: Sequence[str | Hook], route: str = "library"
    ) -> None:
        super().__init__(wrapped)
        if isinstance(hooks, str) or not isinstance(hooks, Sequence) or not hooks:
            raise ConfigError(
                f"`hooks` must be a list of hooks, such as ['prometheus'], not {hooks!r}"
            )
        if not isinstance(route, str) or not route:
            raise ConfigError(f"`route` must be a name, not {route!r}")
        self._hooks = tuple(hooks)
        self._route = route
        self.hooks = tuple(open_hook(hook) for hook in self._hooks)
        leaf = next(backend for backend in wrapped.walk() if not backend.children)
        self._kind, self._model = leaf.kind, leaf.model
        self._has_choice = any(len(backend.children) > 1 for backend in wrapped.walk())

    def flow(self, requests: Requests) -> Flow:
        documents = sum([len(documents) for _, documents in requests])
        started = CallStarted(self._route, self._kind, self._model, len(requests), documents)
        with observe_call(self.hooks, started) as facts:
            results: list[Scores] = yield Call(self.wrapped, requests)
            if self._has_choice:
                facts.scored_by = next((result.backend for result in results if result), None)
            facts.truncated = sum([len(scores.truncated) for scores in results])
            facts.cached = sum([scores.cached for scores in results])
            usages = [scores.usage for scores in results if scores.usage is not None]
            facts.tokens = reduce(add, usages).tokens if usages else None
        return results

    def describe(self) -> dict[str, object]:
        names = [hook if isinstance(hook, str) else _name(hook) for hook in self._hooks]
        return {**self.wrapped.describe(), self.table: {"hooks": names, "route": self._route}}

    def to_spec(self) -> dict[str, object]:
        for hook in self._hooks:
            if not isinstance(hook, str):
                raise ConfigError(
                    f"the hook `{_name(hook)}` can't be written as a spec; give it as a string, "
                    "such as 'prometheus'"
                )
        return super().to_spec()

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "hooks": list(self._hooks)}


def _name(hook: Hook) -> str:
    return getattr(hook, "__name__", type(hook).__name__)
