"""The report of `doctor`, as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rerank_plugins._internal.terminal import escaped, to_json
from rerank_plugins.backend import UNCALIBRATED

__all__ = ["INDENT", "Check", "Report", "as_json", "as_lines", "facts_as_lines"]

INDENT = 18
"""Where the values of most lines begin."""


_UNCALIBRATED = (
    ": no probabilities, so `min_score` means what it means for this model alone; to fit a curve: "
    "rerank-plugins calibrate"
)


@dataclass(frozen=True, slots=True)
class Check:
    """One check."""

    name: str
    """What is checked: `"spec"`, `"engine"`, `"key"`, `"server"`, `"model"` or `"score"`."""
    ok: bool
    """Whether it passed."""
    detail: str
    """The result, or what is wrong and what to do."""


@dataclass(slots=True)
class Report:
    """The checks and facts so far."""

    spec: str
    """What to pass as `backend`; the user's words, until a server is identified."""
    checks: list[Check] = field(default_factory=list)
    """The checks, in order."""
    server: Mapping[str, object] = field(default_factory=dict)
    """The server's description of itself; empty without a known server."""
    model: Mapping[str, object] = field(default_factory=dict)
    """What the files of the model on this machine say; empty without one."""
    backend: Mapping[str, object] = field(default_factory=dict)
    """The backend's description of itself; empty unless it scored."""

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)

    def add(self, name: str, detail: str, *, ok: bool = True) -> None:
        """Add a check."""
        self.checks.append(Check(name, ok, detail))


def as_json(environment: Mapping[str, object], report: Report) -> str:
    """Return all facts and checks as one JSON document."""
    document = {"ok": report.ok, "environment": environment, **asdict(report)}
    return to_json(document)


def as_lines(environment: Mapping[str, Any], report: Report) -> Iterator[tuple[str, str]]:
    """Yield the verdict, the facts and the checks as lines of text, each with its style."""
    yield _verdict(report)
    cpu = environment["cpu"]
    title = (
        f"rerank-plugins {environment['rerank-plugins']} · Python {environment['python']} · "
        f"{environment['platform']}"
    )
    yield "bold", f"\n{title}"
    yield "", _line("cpu", ", ".join([f"{cpu['cores']} cores", *cpu["features"]]))
    for library, devices in environment["devices"].items():
        yield "", _line(library, ", ".join(devices))
    for name in environment["keys"]:
        yield "", _line("key", f"{name} is set")

    yield "bold", "\ninstalled"
    yield "", _line("base", _versions(environment["packages"]))
    for extra, packages in environment["extras"].items():
        missing = [name for name, version in packages.items() if version is None]
        if missing:
            need = f"needs {', '.join(missing)}: pip install 'rerank-plugins[{extra}]'"
            yield "dim", _line(extra, need)
        else:
            yield "", _line(extra, _versions(packages))

    yield from facts_as_lines("server", report.server)
    yield from facts_as_lines("model", report.model)
    yield from facts_as_lines("backend", report.backend)

    yield "bold", "\nchecks"
    for check in report.checks:
        mark, style = ("✓", "green") if check.ok else ("✗", "red")
        yield style, _line(f"{mark} {check.name}", check.detail)


def facts_as_lines(title: str, facts: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield facts as lines below a title, each with its style; nothing where there are none."""
    if facts:
        yield "bold", f"\n{title}"
    for name, value in facts.items():
        if value is not None:
            hint = _UNCALIBRATED if value == UNCALIBRATED else ""
            yield "", _line(name, _fact(value) + hint)


def _verdict(report: Report) -> tuple[str, str]:
    failed = [check for check in report.checks if not check.ok]
    scored = any(check.name == "score" and check.ok for check in report.checks)
    if failed and scored:
        detail = escaped(failed[0].detail)
        return "bold red", f"✗ {escaped(report.spec)} scores, but not all of it works: {detail}"
    if failed:
        return "bold red", f"✗ {escaped(report.spec)} does not work: {escaped(failed[0].detail)}"
    if scored:
        return "bold green", f"✓ it works; to use it: backend={report.spec!r}"
    return "bold green", f"✓ nothing is missing, but nothing was scored: backend={report.spec!r}"


def _line(label: str, value: str) -> str:
    return f"  {label:<{INDENT - 3}} {escaped(value)}"


def _fact(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value)


def _versions(packages: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {version or 'missing'}" for name, version in packages.items())
