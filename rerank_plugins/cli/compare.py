"""`rerank-plugins compare`: the rankings of several backends, side by side."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from rerank_plugins._internal.display import excerpt
from rerank_plugins._internal.terminal import to_json
from rerank_plugins._internal.text_files import TEXT_KEYS
from rerank_plugins._internal.whole_files import write_whole
from rerank_plugins.cli.documents import Entry, FileFormat, read_documents
from rerank_plugins.cli.misplaced import refuse_backends
from rerank_plugins.cli.output import OutputError, printing
from rerank_plugins.cli.rank import INSTRUCTION_HELP, TEXT_KEY_HELP, standard_input
from rerank_plugins.content import Query
from rerank_plugins.errors import DataError
from rerank_plugins.evaluation.compare import Comparison
from rerank_plugins.evaluation.compare import compare as compared

__all__ = ["as_json", "as_lines", "compare"]


def compare(
    query: Annotated[str, typer.Argument(help="What to rank the documents for.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="Documents, best first; `rank` reads the same files."),
    ] = None,
    *,
    backends: Annotated[
        list[str] | None,
        typer.Option(
            "--backend",
            "-b",
            metavar="SPEC",
            help="A backend, once or more. Else $RERANK_BACKEND, else embedded.",
        ),
    ] = None,
    instruction: Annotated[str | None, typer.Option(metavar="TEXT", help=INSTRUCTION_HELP)] = None,
    top_n: Annotated[int, typer.Option("--top-n", "-n", min=1, help="Places to show.")] = 10,
    file_format: Annotated[
        FileFormat, typer.Option(help="How to read the files.")
    ] = FileFormat.AUTO,
    text_key: Annotated[str | None, typer.Option(metavar="KEY", help=TEXT_KEY_HELP)] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Also write an HTML page.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compare the rankings of several backends with the order of the file.

    A terminal gets two tables: ranks and moves, and how alike the rankings are.
    A pipe gets tab-separated lines under a line of column names: the place in
    the file, the rank by each backend, id and text.
    """
    from rich.console import Console  # noqa: PLC0415  # `--version` and errors need no rich

    paths = files or standard_input()
    refuse_backends(paths, what="file")
    entries = read_documents(paths, file_format, TEXT_KEYS if text_key is None else [text_key])
    if not entries:
        names = ", ".join(repr(str(path)) for path in paths)
        raise DataError(f"{names} holds no documents to rank")
    messages = Console(stderr=True)
    count = len(backends or [None])
    activity = f"Scoring {len(entries)} documents with {count} backend{'' if count == 1 else 's'} …"
    with messages.status(activity) if messages.is_terminal else nullcontext():
        named = len(paths) > 1 or any(entry.id is not None for entry in entries)
        comparison = compared(
            query if instruction is None else Query(query, instruction=instruction),
            [entry.text for entry in entries],
            backends or [None],
            top_n=top_n,
            ids=[entry.label for entry in entries] if named else None,
        )
    if html is not None:
        _write(html, comparison.to_html())
        messages.print(f"page: {html}", style="dim", highlight=False, markup=False, soft_wrap=True)
    console = Console()
    with printing():
        if json_output:
            sys.stdout.write(as_json(comparison, entries))
        elif console.is_terminal:
            console.print(comparison)
        else:
            sys.stdout.writelines(as_lines(comparison, entries))


def _write(path: Path, page: str) -> None:
    try:
        write_whole({path: page})
    except OSError as error:
        raise OutputError(f"can't write {str(path)!r}: {error.strerror or error}") from error


def as_lines(comparison: Comparison, entries: Sequence[Entry]) -> Iterator[str]:
    """Yield each top document as a tab-separated line: its ranks, id and text."""
    labels = [excerpt(ordering.label) for ordering in comparison.orderings]
    yield "\t".join([*labels, "id", "document"]) + "\n"
    for position in comparison.shown:
        places = [str(ordering.ranks[position]) for ordering in comparison.orderings]
        entry = entries[position]
        yield "\t".join([*places, excerpt(entry.label), excerpt(entry.text)]) + "\n"


def as_json(comparison: Comparison, entries: Sequence[Entry]) -> str:
    """Return rankings, scores, agreements and all documents as one JSON document."""
    documents = [
        {"index": index, "id": entry.id, "source": entry.source, "text": entry.text}
        for index, entry in enumerate(entries)
    ]
    facts = comparison.to_dict() | {"documents": documents}
    return to_json(facts)
