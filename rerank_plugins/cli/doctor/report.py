"""What an examination found, and how it reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Check", "Report", "as_json", "as_lines"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried."""

    name: str
    """What was tried: `"spec"`, `"engine"`, `"key"`, `"server"` or `"score"`."""
    ok: bool
    """Whether it worked."""
    detail: str
    """What came out, or what went wrong and what to do."""


@dataclass(slots=True)
class Report:
    """What an examination has found so far."""

    spec: str
    """What to pass as `backend`; as it was given until something better is known."""
    checks: list[Check] = field(default_factory=list)
    """What was tried, in order; it stops at the first failure."""
    server: Mapping[str, object] = field(default_factory=dict)
    """What the server says of itself; empty without a server we know."""
    backend: Mapping[str, object] = field(default_factory=dict)
    """What the backend says of itself; empty unless it was asked to score."""

    @property
    def ok(self) -> bool:
        """Whether everything that was tried worked."""
        return all(check.ok for check in self.checks)

    def add(self, name: str, detail: str, *, ok: bool = True) -> None:
        """Note what came of one thing that was tried."""
        self.checks.append(Check(name, ok, detail))


def as_json(environment: Mapping[str, object], report: Report) -> str:
    """Write all facts and checks as one JSON document."""
    document = {"ok": report.ok, "environment": environment, **asdict(report)}
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def as_lines(environment: Mapping[str, Any], report: Report) -> Iterator[tuple[str, str]]:
    """Lay out the verdict, all facts and all checks as lines of text, each with its style."""
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

    for title, facts in (("server", report.server), ("backend", report.backend)):
        if facts:
            yield "bold", f"\n{title}"
        for name, value in facts.items():
            if value is not None:
                yield "", _line(name, _fact(value))

    yield "bold", "\nchecks"
    for check in report.checks:
        mark, style = ("✓", "green") if check.ok else ("✗", "red")
        yield style, _line(f"{mark} {check.name}", check.detail)


def _verdict(report: Report) -> tuple[str, str]:
    failed = [check for check in report.checks if not check.ok]
    if failed:
        return "bold red", f"✗ {report.spec} does not work: {failed[0].detail}"
    if any(check.name == "score" for check in report.checks):
        return "bold green", f"✓ it works; to use it: backend={report.spec!r}"
    return "bold green", f"✓ nothing is missing, but nothing was scored: backend={report.spec!r}"


def _line(label: str, value: str) -> str:
    return f"  {label:<14}{value}"


def _fact(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value)


def _versions(packages: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {version or 'missing'}" for name, version in packages.items())
