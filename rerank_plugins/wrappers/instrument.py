"""A backend whose calls are told to hooks."""

from __future__ import annotations

from collections.abc import Sequence
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
    """Tells hooks of each call and of what happens in it: attempts, retries, fallbacks, caches.

    It belongs outermost. What the backends inside tell reaches the hooks from all threads and
    tasks that work for the call. A hook that fails is logged, once a minute, and fails no call.

    Args:
        wrapped: the backend that scores.
        hooks: who hears it: specs for `open_hook()`, such as `"prometheus"`, or anything that
            can be called with an event (see `rerank_plugins.hooks.Hook`).
        route: the name of these calls in metrics and traces, which tells the uses of rerankers
            in a process apart.

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
        first = next(node for node in wrapped.walk() if not node.children)
        self._kind, self._model = first.kind, first.model

    def flow(self, requests: Requests) -> Flow:
        documents = sum(len(found) for _, found in requests)
        started = CallStarted(self._route, self._kind, self._model, len(requests), documents)
        with observe_call(self.hooks, started) as finished:
            scores: list[Scores] = yield Call(self.wrapped, requests)
            if any(len(node.children) > 1 for node in self.walk()):
                finished["scored_by"] = next((s.backend for s in scores if s.backend), None)
        return scores

    def describe(self) -> dict[str, object]:
        names = [hook if isinstance(hook, str) else _label(hook) for hook in self._hooks]
        return {**self.wrapped.describe(), self.table: {"hooks": names, "route": self._route}}

    def to_spec(self) -> dict[str, object]:
        for hook in self._hooks:
            if not isinstance(hook, str):
                raise ConfigError(
                    f"the hook `{_label(hook)}` can't be written as a spec; give it as a string, "
                    "such as 'prometheus'"
                )
        return super().to_spec()

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "hooks": list(self._hooks)}


def _label(hook: Hook) -> str:
    return getattr(hook, "__name__", type(hook).__name__)
