"""Whether a backend works: its spec, its endpoint and one real round of scoring."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from rerank_plugins.backend import Backend
from rerank_plugins.errors import RerankError
from rerank_plugins.spec import ENVIRONMENT_VARIABLE, load_backend

__all__ = ["Check", "Report", "examine", "score_pair"]

_QUERY = "what is a panda?"
_RELEVANT = "The giant panda is a bear species endemic to China."
_UNRELATED = "Paris is the capital and largest city of France."


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried."""

    name: str
    """What was tried: `"endpoint"`, `"spec"` or `"score"`."""
    ok: bool
    """Whether it worked."""
    detail: str
    """What came out, or what went wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Report:
    """What an examination found."""

    spec: str
    """What to pass as `backend`; as it was given if it does not work."""
    checks: list[Check]
    """What was tried, in order; it stops at the first failure."""
    backend: Mapping[str, object] = field(default_factory=dict)
    """What the backend says of itself; empty unless it scored."""

    @property
    def ok(self) -> bool:
        """Whether everything that was tried worked."""
        return all(check.ok for check in self.checks)


def examine(spec: str | None, *, score: bool = True) -> Report:
    """Build the backend, score a pair of documents twice, and ask what it is.

    Raises none of our errors: they are what the report is about.

    Args:
        spec: a spec, a path to a TOML file, or None for the default.
        score: False loads no model and sends no request that could cost.
    """
    origin = ""
    if spec is None:
        spec = os.environ.get(ENVIRONMENT_VARIABLE, "").strip()
        origin = f" (from {ENVIRONMENT_VARIABLE})" if spec else " (the default)"
        spec = spec or "embedded"
    try:
        backend = load_backend(spec)
    except RerankError as error:
        return Report(spec, [Check("spec", ok=False, detail=f"{error}{origin}")])
    checks = [Check("spec", ok=True, detail=f"{backend.name}{origin}")]
    facts: Mapping[str, object] = {}
    if score:
        with backend:
            checks.append(score_pair(backend))
            if checks[-1].ok:
                facts = backend.describe()
    return Report(spec, checks, facts)


def score_pair(backend: Backend) -> Check:
    """Score a relevant and an unrelated document, cold and warm."""
    seconds = []
    try:
        for _ in range(2):
            started = time.perf_counter()
            relevant, unrelated = backend.score(_QUERY, [_RELEVANT, _UNRELATED])
            seconds.append(time.perf_counter() - started)
    except RerankError as error:
        return Check("score", ok=False, detail=str(error))
    found = f"{relevant:.4g} for a relevant document, {unrelated:.4g} for an unrelated one"
    if relevant <= unrelated:
        return Check(
            "score",
            ok=False,
            detail=f"{found}: the order is wrong; is this model a reranker, and fully loaded?",
        )
    first, second = (f"{1000 * value:.1f} ms" for value in seconds)
    return Check("score", ok=True, detail=f"{found}; first time {first}, then {second}")
