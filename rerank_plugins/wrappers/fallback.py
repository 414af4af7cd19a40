"""Backends that stand in for each other."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from rerank_plugins._internal.throttle import Throttle
from rerank_plugins.backend import Backend
from rerank_plugins.content import Requests
from rerank_plugins.errors import BackendError, BackendRejected, ConfigError, RerankError
from rerank_plugins.hooks import FellBack, outcome_of
from rerank_plugins.hooks._dispatch import emit
from rerank_plugins.scores import Scale, Scores
from rerank_plugins.wrappers._specs import spec_of_chain
from rerank_plugins.wrappers.base import Call, Flow, WrapperBackend

__all__ = ["FallbackBackend"]

_logger = logging.getLogger(__name__)
_may_warn = Throttle()


class FallbackBackend(WrapperBackend):
    """Scores with the first backend, and with the next one when the one before fails.

    A backend fails when it is unavailable, sends an invalid response, or breaks. When it refuses
    the input, the key or its settings, the error is raised: another model must not hide it. If all
    fail, the last error is raised, with a note for each before it.

    Scores of different models don't compare, so one backend scores a whole call; `Scores.backend`
    says which, and both adapters write it into the metadata `rerank_status`. A chain can't be
    cached, only the backends in it.

    Args:
        backends: the backends to try, in order.

    Raises:
        ConfigError: there is none, or they have different scales. A chain with a backend of
            unknown scale has an unknown scale.
    """

    def __init__(self, backends: Sequence[Backend]) -> None:
        if isinstance(backends, Backend):
            raise ConfigError(f"`backends` must be a list of backends, not {backends!r}")
        super().__init__(*backends)
        _check_scales(self.children)
        self.cacheable = False

    @classmethod
    def _rebuilt(cls, children: Sequence[Backend], options: Mapping[str, Any]) -> Backend:
        return cls(children, **options)

    @property
    def scale(self) -> Scale:  # type: ignore[override]  # as in the base
        scales = {backend.scale for backend in self.children}
        return scales.pop() if len(scales) == 1 else "unknown"

    @property
    def name(self) -> str:
        """The backends of the chain, as their `repr` shows them; loads no model."""
        return " | ".join(map(repr, self.children))

    @property
    def kind(self) -> str:
        return "fallback"

    @property
    def model(self) -> None:
        return None

    @property
    def label(self) -> str:
        return " | ".join(backend.label for backend in self.children)

    @property
    def endpoint(self) -> str | None:
        return ",".join(filter(None, (child.endpoint for child in self.children))) or None

    def flow(self, requests: Requests) -> Flow:
        *others, last = self.children
        earlier: list[str] = []
        for backend in others:
            try:
                scores: list[Scores] = yield Call(backend, requests)
            except RerankError as error:
                if not _is_failure(error):
                    _add_notes(error, earlier)
                    raise
                emit(FellBack(outcome_of(error), "backend"))
                earlier.append(f"before that, {backend!r}: {type(error).__name__}: {error}")
                if _may_warn():
                    _logger.warning("%s failed, trying the next backend: %s", backend.label, error)
            else:
                return scores
        try:
            scores = yield Call(last, requests)
        except RerankError as error:
            _add_notes(error, earlier)
            raise
        return scores

    def describe(self) -> dict[str, object]:
        return {
            "name": self.name,
            "scale": self.scale,
            "cacheable": self.cacheable,
            "backends": [backend.describe() for backend in self.children],
        }

    def to_spec(self) -> dict[str, object]:
        """Return the tables of a configuration file.

        Raises:
            ConfigError: no file builds this chain: it has one backend, or another chain in it, or
                a backend that can't be written as a spec, or the backends have different wrappers,
                where a table such as `[cache]` holds for all.
        """
        return spec_of_chain(self, "fallback")


def _add_notes(error: RerankError, notes: Sequence[str]) -> None:
    for note in notes:
        error.add_note(note)


def _is_failure(error: RerankError) -> bool:
    """Whether a backend failed, rather than its caller."""
    return isinstance(error, BackendError) and not isinstance(error, BackendRejected)


def _check_scales(backends: Sequence[Backend]) -> None:
    if len({backend.scale for backend in backends} - {"unknown"}) > 1:
        listed = ", ".join(f"{backend!r}: {backend.scale}" for backend in backends)
        raise ConfigError(
            f"the scores of a fallback chain must have one scale, but these differ ({listed}); set "
            "`scale` on the backends that can change it"
        )
