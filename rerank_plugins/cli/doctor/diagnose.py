"""Checks of a backend: its spec, what it needs, its servers, and one real round of scoring."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from rerank_plugins.backend import Backend
from rerank_plugins.backends.http.dialects import DIALECTS
from rerank_plugins.backends.http.discovery import probe
from rerank_plugins.backends.http.failures import TRY_DOCTOR
from rerank_plugins.cli.doctor.report import Check, Report
from rerank_plugins.errors import ConfigError, MissingDependencyError, RerankError
from rerank_plugins.spec import ENVIRONMENT_VARIABLE, load_backend

__all__ = ["diagnose", "score_pair"]

_URL = re.compile(r"https?://.*", re.IGNORECASE)
_ADDRESS = re.compile(r"(\[[\da-f:]+\]|[\w.-]+):\d{1,5}(/.*)?", re.IGNORECASE)
_QUERY = "what is a panda?"
_RELEVANT = "The giant panda is a bear species endemic to China."
_UNRELATED = "Paris is the capital and largest city of France."


def diagnose(
    spec: str | None,
    *,
    score: bool = True,
    before_score: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Build the backend, check what each backend of its chain needs, and score a pair twice.

    Raises none of our errors: the report holds them.

    Args:
        spec: a spec, a path to a TOML file, the plain URL of a server, or None for the default.
        score: False loads no model and sends no request that could cost.
        before_score: called with what is known, before a model is downloaded and loaded.
    """
    origin = ""
    if spec is None:
        spec = os.environ.get(ENVIRONMENT_VARIABLE, "").strip()
        origin = f" (from {ENVIRONMENT_VARIABLE})" if spec else " (the default)"
        spec = spec or "embedded"
    report = Report(spec)
    if _URL.fullmatch(spec) and not _identify(report):
        return report
    try:
        backend = load_backend(report.spec)
    except RerankError as error:
        problem = f"write http://{spec}" if _ADDRESS.fullmatch(spec) else str(error)
        report.add("spec", f"{problem}{origin}", ok=False)
        return report
    report.add("spec", f"{backend!r}{origin}")
    leaves = [leaf for leaf in backend.walk() if not leaf.children]
    if missing := [check for leaf in leaves for check in _missing(leaf)]:
        report.checks += missing
        return report
    with backend:
        if not report.server:  # a plain URL was identified above
            for check in backend.check_servers():
                report.server = report.server or check.facts
                report.add("server", _without_advice(check.detail), ok=check.ok)
        for model in backend.check_models():
            report.model = report.model or model.facts
            report.add("model", model.detail, ok=model.ok)
        # Of several backends, another may score in the place of one whose server is down.
        if score and (report.ok or len(leaves) > 1):
            before_score(report)
            report.checks.append(score_pair(backend))
            try:
                report.backend = backend.describe()
            except RerankError:
                report.backend = {}  # the failed check holds the reason
    return report


def _missing(leaf: Backend) -> Iterator[Check]:
    """Name what a backend needs and this machine lacks: an engine's packages, a service's key."""
    try:
        leaf.check_requirements()
    except MissingDependencyError as error:
        yield Check("engine", ok=False, detail=str(error))
    except ConfigError as error:
        yield Check("key", ok=False, detail=str(error))


def _identify(report: Report) -> bool:
    """Find out which server answers at a plain URL, and put its spec into the report."""
    try:
        server = probe(report.spec)
        key = _key(DIALECTS[server.dialect].key_variables)
        if key and not server.authorized:
            server = probe(report.spec, api_key=key)
    except RerankError as error:
        report.add("server", _without_advice(str(error)), ok=False)
        return False
    report.server = asdict(server)
    # Without a key there is no model to put into the spec.
    if not server.authorized and not server.models and DIALECTS[server.dialect].needs_model:
        report.add("server", server.summary, ok=False)
        return False
    report.spec = server.spec
    report.add("server", server.summary)
    return True


def _without_advice(text: str) -> str:
    """Return an error's text without the advice to run this command."""
    return text.partition(TRY_DOCTOR)[0]


def _key(variables: Sequence[str]) -> str | None:
    return next((os.environ[name] for name in variables if os.environ.get(name)), None)


def score_pair(backend: Backend) -> Check:
    """Score a relevant and an unrelated document, cold and warm."""
    seconds = []
    try:
        for _ in range(2):
            started = time.perf_counter()
            relevant, unrelated = backend.score(_QUERY, [_RELEVANT, _UNRELATED])
            seconds.append(time.perf_counter() - started)
    except RerankError as error:
        return Check("score", ok=False, detail=_without_advice(str(error)))
    scores = f"{relevant:.4g} for a relevant document, {unrelated:.4g} for an unrelated one"
    if relevant <= unrelated:
        return Check(
            "score",
            ok=False,
            detail=f"{scores}: the order is wrong; is this model a reranker, and fully loaded?",
        )
    first, second = (f"{1000 * value:.1f} ms" for value in seconds)
    return Check("score", ok=True, detail=f"{scores}; first time {first}, then {second}")
