"""Hooks and the events they receive: what happens inside a call, for logs, metrics and traces."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass

from rerank_plugins._internal.options import checked_options, unknown, with_options
from rerank_plugins.errors import ConfigError
from rerank_plugins.hooks.events import (
    AttemptFinished,
    AttemptStarted,
    BatchFinished,
    BatchShrunk,
    BreakerChanged,
    CacheLookedUp,
    CallFinished,
    CallStarted,
    Computed,
    Dequeued,
    Dropped,
    Event,
    FellBack,
    Hook,
    Retried,
    Split,
    Truncated,
    Windowed,
    outcome_of,
)

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
    "open_hook",
    "outcome_of",
]


@dataclass(frozen=True)
class _HookKind:
    module: str
    name: str


_KINDS: Mapping[str, _HookKind] = {
    "logging": _HookKind("rerank_plugins.hooks.logging", "LoggingHook"),
    "opentelemetry": _HookKind("rerank_plugins.hooks.opentelemetry", "OpenTelemetryHook"),
    "prometheus": _HookKind("rerank_plugins.hooks.prometheus", "PrometheusHook"),
}


def open_hook(spec: str | Hook) -> Hook:
    """Build the hook that a spec describes; return a hook as it is.

    Args:
        spec: `"logging"`, `"prometheus"` or `"opentelemetry"`; the options after a `?` are the
            keywords of the hook's constructor, as in `"logging?slow=0.5"`.

    Raises:
        ConfigError: the spec is malformed, or names an unknown hook or option; or the hook is no
            callable, or is `async`.
        MissingDependencyError: the hook needs an extra that is not installed.
    """
    if not isinstance(spec, str):
        _check(spec)
        return spec
    name, _, options = spec.strip().partition("?")
    if name not in _KINDS:
        raise ConfigError(unknown("hook", name, _KINDS))
    constructor = getattr(importlib.import_module(_KINDS[name].module), _KINDS[name].name)
    settings = checked_options(constructor, with_options({}, options), what=f"hook {name!r}")
    hook: Hook = constructor(**settings)
    return hook


def _check(hook: object) -> None:
    if isinstance(hook, type):
        raise ConfigError(f"the hook is a class; pass an instance: `{hook.__name__}()`")
    if not callable(hook):
        raise ConfigError(
            f"a hook is called with each event, but `{type(hook).__name__}` can't be called"
        )
    if any(map(inspect.iscoroutinefunction, (hook, type(hook).__call__))):
        raise ConfigError("a hook is called and never awaited; write `def`, not `async def`")
