"""`rerank-plugins doctor`: what is installed, and whether a backend works."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from rerank_plugins.cli.environment import describe_environment
from rerank_plugins.cli.examine import Report, examine

__all__ = ["as_json", "as_lines", "doctor"]


def doctor(
    spec: Annotated[
        str | None,
        typer.Argument(
            help="A spec, a .toml file, or the plain URL of a server. "
            "Else $RERANK_BACKEND, else embedded."
        ),
    ] = None,
    *,
    score: Annotated[
        bool,
        typer.Option(help="Load the model and score a pair, which hosted services bill."),
    ] = True,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what is installed, what would score on which device, and whether it works.

    Exit code 1 says that something does not work.
    """
    from rich.console import Console  # noqa: PLC0415  # `--version` and errors need no rich
    from rich.text import Text  # noqa: PLC0415

    environment = describe_environment()
    report = examine(spec, score=score)
    if json_output:
        sys.stdout.write(as_json(environment, report))
    else:
        console = Console()
        for style, line in as_lines(environment, report):
            console.print(Text(line, style=style), soft_wrap=True)
    raise typer.Exit(0 if report.ok else 1)


def as_json(environment: Mapping[str, object], report: Report) -> str:
    """Write all facts and checks as one JSON document."""
    document = {"ok": report.ok, "environment": environment, **asdict(report)}
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def as_lines(environment: Mapping[str, Any], report: Report) -> Iterator[tuple[str, str]]:
    """Lay out all facts and checks as lines of text, each with its style."""
    cpu = environment["cpu"]
    title = (
        f"rerank-plugins {environment['rerank-plugins']} · Python {environment['python']} · "
        f"{environment['platform']}"
    )
    yield "bold", title
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

    yield "bold", "\nbackend"
    for name, value in report.backend.items():
        yield "", _line(name, value if isinstance(value, str) else json.dumps(value))
    for check in report.checks:
        mark, style = ("✓", "green") if check.ok else ("✗", "red")
        yield style, _line(f"{mark} {check.name}", check.detail)
    if report.ok:
        yield "bold", "\nto use it"
        yield "", f"  backend={report.spec!r}"


def _line(label: str, value: str) -> str:
    return f"  {label:<14}{value}"


def _versions(packages: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {version or 'missing'}" for name, version in packages.items())
