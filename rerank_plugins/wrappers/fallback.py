"""Backends that stand in for each other."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack

from rerank_plugins._internal.throttle import Throttle
from rerank_plugins.backend import Backend
from rerank_plugins.content import Requests
from rerank_plugins.errors import BackendError, BackendRejected, ConfigError, RerankError
from rerank_plugins.hooks import FellBack, outcome_of
from rerank_plugins.hooks._dispatch import emit
from rerank_plugins.scores import Scale, Scores
from rerank_plugins.wrappers.base import Call, Flow, WrapperBackend

__all__ = ["FallbackBackend"]

_logger = logging.getLogger(__name__)
_may_warn = Throttle()


class FallbackBackend(WrapperBackend):
    """Asks the first backend, and the next one when the one before fails.

    A backend fails when it is unavailable, answers nonsense, or breaks. When it refuses the
    input, the key or its settings, the error is raised: another model must not hide it. If all
    fail, the last error is raised, with a note for each before it.

    Scores of different models don't compare: one call is always answered by one backend. Both
    adapters write which one it was into the metadata `rerank_status`, and nothing is cached
    outside the chain.

    Args:
        backends: whom to ask, in order.

    Raises:
        ConfigError: there is none, or they have different scales. A chain with a backend of
            unknown scale has an unknown scale.
    """

    def __init__(self, backends: Sequence[Backend]) -> None:
        self.backends = tuple(backends)
        """Whom to ask, in order."""
        if not self.backends:
            raise ConfigError("`FallbackBackend` needs at least one backend")
        super().__init__(self.backends[0])
        self.scale = _common_scale(self.backends)
        self.cacheable = False
        self.pointwise = all(backend.pointwise for backend in self.backends)
        self.inputs = frozenset.intersection(*(backend.inputs for backend in self.backends))
        self.instructions = all(backend.instructions for backend in self.backends)

    @property
    def name(self) -> str:
        """The parts of the chain, as they show themselves; loads no model."""
        return " | ".join(map(repr, self.backends))

    @property
    def kind(self) -> str:
        return "fallback"

    @property
    def model(self) -> None:
        return None

    @property
    def label(self) -> str:
        return " | ".join(backend.label for backend in self.backends)

    @property
    def children(self) -> tuple[Backend, ...]:
        return self.backends

    def flow(self, requests: Requests) -> Flow:
        earlier: list[str] = []
        for backend in self.backends:
            try:
                scores: list[Scores] = yield Call(backend, requests)
            except RerankError as error:
                for failure in earlier:
                    error.add_note(failure)
                if not _is_failure(error) or backend is self.backends[-1]:
                    raise
                emit(FellBack(outcome_of(error), "backend"))
                earlier.append(f"before that, {backend!r}: {type(error).__name__}: {error}")
                if _may_warn():
                    _logger.warning("%r failed, asking the next backend: %s", backend, error)
            else:
                return scores
        raise AssertionError  # the last backend returned or raised

    def describe(self) -> dict[str, object]:
        return {
            "name": self.name,
            "scale": self.scale,
            "cacheable": self.cacheable,
            "backends": [backend.describe() for backend in self.backends],
        }

    def to_spec(self) -> dict[str, object]:
        """Return the tables of a configuration file.

        Raises:
            ConfigError: a backend can't be written down, or they are wrapped differently: a
                table such as `[retry]` holds for all.
        """
        tables: dict[str, object] = {}
        asked: list[object] = []
        for backend in self.backends:
            spec = backend.to_spec()
            own = {"backend": spec} if "kind" in spec else dict(spec)
            asked.append(own.pop("backend"))
            for table, options in own.items():
                if tables.setdefault(table, options) != options or table == "fallback":
                    raise ConfigError(
                        f"backends with different `{table}` tables can't be written as one file"
                    )
        first, *others = asked
        return {"backend": first, **tables, "fallback": others}

    def close(self) -> None:
        with ExitStack() as closing:
            for backend in self.backends:
                closing.callback(backend.close)

    async def aclose(self) -> None:
        async with AsyncExitStack() as closing:
            for backend in self.backends:
                closing.push_async_callback(backend.aclose)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.backends,)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


def _is_failure(error: RerankError) -> bool:
    """Whether a backend failed, rather than its caller."""
    return isinstance(error, BackendError) and not isinstance(error, BackendRejected)


def _common_scale(backends: Sequence[Backend]) -> Scale:
    scales = {backend.scale for backend in backends}
    if scales >= {"probability", "logit"}:
        said = ", ".join(f"{backend!r}: {backend.scale}" for backend in backends)
        raise ConfigError(
            f"scores of a fallback chain must have one scale, but these differ ({said}); set "
            "`scale` on the backends that can change it"
        )
    return "unknown" if "unknown" in scales else backends[0].scale
