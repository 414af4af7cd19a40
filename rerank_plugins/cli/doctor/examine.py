"""Whether a backend works: its server, its spec and one real round of scoring."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from rerank_plugins.backend import Backend
from rerank_plugins.backends.http.dialects import DIALECTS
from rerank_plugins.backends.http.discovery import ServerInfo, UnknownServer, probe
from rerank_plugins.backends.local.select import check_installed
from rerank_plugins.cli.doctor.report import Check, Report
from rerank_plugins.errors import ConfigError, MissingDependencyError, RerankError
from rerank_plugins.spec import ENVIRONMENT_VARIABLE, load_backend

__all__ = ["examine", "score_pair"]

_URL = re.compile(r"https?://.*", re.IGNORECASE)
_ADDRESS = re.compile(r"(\[[\da-f:]+\]|[\w.-]+):\d{1,5}(/.*)?", re.IGNORECASE)
_QUERY = "what is a panda?"
_RELEVANT = "The giant panda is a bear species endemic to China."
_UNRELATED = "Paris is the capital and largest city of France."


def examine(spec: str | None, *, score: bool = True) -> Report:
    """Ask the server who it is, build the backend, and score a pair of documents twice.

    Raises none of our errors: they are what the report is about.

    Args:
        spec: a spec, a path to a TOML file, the plain URL of a server, or None for the default.
        score: False loads no model and sends no request that could cost.
    """
    origin = ""
    if spec is None:
        spec = os.environ.get(ENVIRONMENT_VARIABLE, "").strip()
        origin = f" (from {ENVIRONMENT_VARIABLE})" if spec else " (the default)"
        spec = spec or "embedded"
    report = Report(spec)
    if _URL.fullmatch(spec) and not _find_server(report):
        return report
    try:
        backend = load_backend(report.spec)
    except RerankError as error:
        problem = f"write http://{spec}" if _ADDRESS.fullmatch(spec) else str(error)
        report.add("spec", f"{problem}{origin}", ok=False)
        return report
    report.add("spec", f"{backend!r}{origin}")  # its name may load the model
    if missing := list(_missing(backend)):
        report.checks += missing
        return report
    with backend:
        if (report.server or _meet_server(report, backend)) and score:
            report.checks.append(score_pair(backend))
            try:
                report.backend = backend.describe()
            except RerankError:
                report.backend = {}  # the check that failed says why
    return report


def _missing(backend: Backend) -> Iterator[Check]:
    """Name what a spec needs and this machine lacks: packages of an engine, keys of services."""
    try:
        spec: Mapping[str, Any] = backend.to_spec()
    except ConfigError:  # a literal key, or a backend of the user's own
        return
    for options in (spec.get("backend", spec), *spec.get("fallback", ())):
        if options["kind"] == "local":
            try:
                check_installed(options.get("engine", "auto"))
            except MissingDependencyError as error:
                yield Check("engine", ok=False, detail=str(error))
        elif dialect := DIALECTS.get(options["kind"]):
            named = options.get("api_key_env")
            variables = (named,) if named else dialect.key_variables
            hosted = dialect.base_url is not None and "base_url" not in options
            if (hosted or named) and not _key(variables):
                detail = f"{options['kind']!r} needs a key: set {' or '.join(variables)}"
                yield Check("key", ok=False, detail=detail)


def _find_server(report: Report) -> bool:
    """Find out which server answers at a plain URL, and put its spec into the report."""
    try:
        server = probe(report.spec)
        key = _key(DIALECTS[server.dialect].key_variables)
        if key and not server.authorized:
            server = probe(report.spec, api_key=key)
    except RerankError as error:
        report.add("server", str(error), ok=False)
        return False
    report.server = asdict(server)
    report.spec = server.spec
    report.add("server", _described(server))
    return True


def _meet_server(report: Report, backend: Backend) -> bool:
    """Ask the server of a backend who it is; return whether it can be expected to score."""
    try:
        options = backend.to_spec()
    except ConfigError:
        return True
    base_url, model = options.get("base_url"), options.get("model")
    if not isinstance(base_url, str):
        return True
    dialect = DIALECTS[str(options["kind"])]
    variable = options.get("api_key_env")
    verify = options.get("verify", True)
    try:
        server = probe(
            base_url,
            api_key=_key((variable,) if isinstance(variable, str) else dialect.key_variables),
            verify=verify if isinstance(verify, bool | str) else True,
        )
    except UnknownServer:  # a proxy, perhaps: scoring will tell
        detail = f"{base_url} does not say what it is; taken for {options['kind']!r} as you wrote"
        report.add("server", detail)
        return True
    except RerankError as error:
        report.add("server", str(error), ok=False)
        return False
    report.server = asdict(server)
    by_name = dialect.needs_model and DIALECTS[server.dialect].needs_model
    if by_name and server.models and model not in server.models:
        known = ", ".join(server.models)
        report.add("server", f"it has no rerank model {model!r}, but: {known}", ok=False)
        return False
    report.add("server", _described(server))
    return True


def _described(server: ServerInfo) -> str:
    words = f"{server.dialect} {server.version or ''} at {server.base_url}"
    if not server.authorized:
        variables = " or ".join(DIALECTS[server.dialect].key_variables)
        words += f", which does not list its models without a valid key: set {variables}"
    return " ".join(words.split())


def _key(variables: tuple[str, ...]) -> str | None:
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
