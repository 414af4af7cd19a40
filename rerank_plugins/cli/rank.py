"""`rerank-plugins rank`: rank the documents of files for a query."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from rerank_plugins._internal.display import as_table, excerpt, facts_of
from rerank_plugins._internal.terminal import escaped, to_json
from rerank_plugins._internal.text_files import TEXT_KEYS
from rerank_plugins.cli.documents import Entry, FileFormat, read_documents
from rerank_plugins.cli.misplaced import refuse_backends
from rerank_plugins.cli.output import printing
from rerank_plugins.content import Query
from rerank_plugins.result import RerankResult, rerank

__all__ = ["INSTRUCTION_HELP", "TEXT_KEY_HELP", "as_json", "as_lines", "rank", "standard_input"]

TEXT_KEY_HELP = f"The key that holds the text of JSON lines. Else {', '.join(TEXT_KEYS)}."
"""The help of `--text-key`, in every command that has it."""

INSTRUCTION_HELP = "What the model should judge, where it takes an instruction."

_PER_DOCUMENT = frozenset({"truncated", "chunked"})
"""Facts that stand beside each document."""


def rank(
    query: Annotated[str, typer.Argument(help="What to rank the documents for.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE",
            help="Text (a document a line), JSON Lines or a JSON array; "
            "- or none is standard input.",
        ),
    ] = None,
    *,
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            "-b",
            metavar="SPEC",
            help="A spec or a .toml file. Else $RERANK_BACKEND, else embedded.",
        ),
    ] = None,
    instruction: Annotated[str | None, typer.Option(metavar="TEXT", help=INSTRUCTION_HELP)] = None,
    top_n: Annotated[
        int | None, typer.Option("--top-n", "-n", min=0, help="Keep at most N documents.")
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(help="Keep documents that score at least this, on the backend's scale."),
    ] = None,
    min_gap: Annotated[
        float | None, typer.Option(help="End where the score falls by at least this.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=0, help="Keep as many documents as fit into N tokens.")
    ] = None,
    count_tokens: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The tokenizer.json that counts them; else an estimate."),
    ] = None,
    distinct: Annotated[
        float | None,
        typer.Option(help="Leave out a document of which this share, 0 to 1, is in a better one."),
    ] = None,
    file_format: Annotated[
        FileFormat, typer.Option(help="How to read the files.")
    ] = FileFormat.AUTO,
    text_key: Annotated[str | None, typer.Option(metavar="KEY", help=TEXT_KEY_HELP)] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Rank documents by relevance to a query, best first.

    A terminal gets a table. A pipe gets tab-separated lines: rank, places
    moved, score, id and text. Exit code 1: no document was kept.
    """
    from rich.console import Console  # noqa: PLC0415  # `--version` and errors need no rich

    if min_score is not None and not math.isfinite(min_score):
        raise typer.BadParameter(f"{min_score} is not finite", param_hint="'--min-score'")
    paths = files or standard_input()
    refuse_backends(paths, what="file")
    entries = read_documents(paths, file_format, TEXT_KEYS if text_key is None else [text_key])
    messages = Console(stderr=True)
    activity = f"Scoring {len(entries)} document{'' if len(entries) == 1 else 's'} …"
    with messages.status(activity) if messages.is_terminal else nullcontext():
        result = rerank(
            query if instruction is None else Query(query, instruction=instruction),
            [entry.text for entry in entries],
            backend=backend,
            top_n=top_n,
            min_score=min_score,
            min_gap=min_gap,
            max_tokens=max_tokens,
            count_tokens=count_tokens,
            distinct=distinct,
        )
    console = Console()
    with printing():
        if json_output:
            sys.stdout.write(as_json(result, entries))
        elif not console.is_terminal:
            sys.stdout.writelines(as_lines(result, entries))
        elif result:
            named = len(paths) > 1 or any(entry.id is not None for entry in entries)
            names = [entry.label for entry in entries] if named else None
            console.print(
                as_table(
                    result.documents,
                    result.ranked,
                    result.scores,
                    label=result.label,
                    names=names,
                    cutoff=result.cutoff,
                )
            )
    if not result:
        typer.echo(_why_none(paths, result, min_score=min_score), err=True)
    raise typer.Exit(0 if result else 1)


def standard_input() -> list[Path]:
    """Return standard input as the file to read; refuse a terminal, which would seem to hang."""
    if sys.stdin is None or sys.stdin.isatty():  # None where it was closed
        raise typer.BadParameter("give a file, or - to type the documents")
    return [Path("-")]


def _why_none(paths: Sequence[Path], result: RerankResult, *, min_score: float | None) -> str:
    """Return why no document was kept."""
    if not result.documents:
        names = ("standard input" if str(path) == "-" else str(path) for path in paths)
        return f"no documents in {escaped(', '.join(names))}"
    if result.cutoff.by == "top_n":
        return "--top-n 0 keeps no document"
    if result.cutoff.by == "max_tokens":
        return "the best document alone has more tokens than --max-tokens allows"
    return f"no document scored at least {min_score:g} ({len(result.documents)} scored)"


def as_lines(result: RerankResult, entries: Sequence[Entry]) -> Iterator[str]:
    """Yield each document as a tab-separated line: rank, places moved, score, id and text."""
    for item in result:
        entry = entries[item.index]
        fields = (
            str(item.rank),
            f"{item.moved:+d}",
            f"{item.score:.6g}",
            excerpt(entry.label),
            excerpt(entry.text),
        )
        yield "\t".join(fields) + "\n"


def as_json(result: RerankResult, entries: Sequence[Entry]) -> str:
    """Return the result as one JSON document; scores are exact."""
    facts = facts_of(result.scores) | {"backend": result.backend}
    query = result.query
    document = {
        "query": query.text if isinstance(query, Query) else query,
        **({"instruction": query.instruction} if isinstance(query, Query) else {}),
        **{name: value for name, value in facts.items() if name not in _PER_DOCUMENT},
        "documents": len(result.documents),
        "cutoff": result.cutoff.as_json(),
        "results": [
            {
                "rank": item.rank,
                "index": item.index,
                "moved": item.moved,
                "score": item.score,
                "truncated": item.truncated,
                "chunked": item.index in result.scores.chunked,
                "passage": item.passage,
                "id": entries[item.index].id,
                "source": entries[item.index].source,
                "text": entries[item.index].text,
            }
            for item in result
        ],
    }
    return to_json(document)
