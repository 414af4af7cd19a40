"""`rerank-plugins doctor`: report what is installed and check that a backend works."""

from __future__ import annotations

import sys
import textwrap
from typing import Annotated

import typer

from rerank_plugins.cli.doctor.report import INDENT, Report, as_json, as_lines, facts_as_lines
from rerank_plugins.cli.output import printing

__all__ = ["doctor"]


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
        typer.Option(help="Load the model and score a pair; hosted services bill that."),
    ] = True,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Report what is installed, and check that a backend works.

    Exit code 1: something does not work.
    """
    from rich.console import Console  # noqa: PLC0415  # `--version` and errors need no rich
    from rich.text import Text  # noqa: PLC0415

    from rerank_plugins.cli.doctor.diagnose import diagnose  # noqa: PLC0415  # it loads httpx
    from rerank_plugins.cli.doctor.environment import describe_environment  # noqa: PLC0415

    environment = describe_environment()
    report = diagnose(spec, score=score, before_score=_announce)
    console = Console()
    with printing():
        if json_output:
            sys.stdout.write(as_json(environment, report))
        elif console.is_terminal:
            for style, line in as_lines(environment, report):
                for part in _wrapped(line, console.width):
                    console.print(Text(part, style=style), soft_wrap=True)
        else:
            sys.stdout.writelines(f"{line}\n" for _, line in as_lines(environment, report))
    raise typer.Exit(0 if report.ok else 1)


def _announce(report: Report) -> None:
    """Say what a model is before it is downloaded, which may take long."""
    is_here = str(report.model.get("download", "")).startswith("nothing")
    if report.model and not is_here:
        sys.stderr.writelines(f"{line}\n" for _, line in facts_as_lines("model", report.model))


def _wrapped(line: str, width: int) -> list[str]:
    """Break a line between words; one that is longer than a line stays whole, to be copied."""
    start = line[: len(line) - len(line.lstrip("\n"))]
    first, *others = textwrap.wrap(
        line.lstrip("\n"),
        max(width, 2 * INDENT),
        subsequent_indent=" " * INDENT if line.startswith("  ") else "",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [start + first, *others]
