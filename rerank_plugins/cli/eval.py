"""`rerank-plugins eval`: measure backends on judged queries."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rerank_plugins._internal.whole_files import write_whole
from rerank_plugins.backend import Backend
from rerank_plugins.cli.misplaced import refuse_backends
from rerank_plugins.cli.output import OutputError, printing
from rerank_plugins.cli.progress import progress
from rerank_plugins.evaluation.datasets import Dataset, load_dataset
from rerank_plugins.evaluation.datasets.demo import DEMO_NAMES
from rerank_plugins.evaluation.evaluate import (
    DEFAULT_DEPTH,
    score_backends,
    summarise,
    sweep,
)
from rerank_plugins.evaluation.metrics import DEFAULT_METRICS, METRIC_FORMS, metric_name
from rerank_plugins.evaluation.report.format import figure, interval, remarks, verdict
from rerank_plugins.evaluation.report.text import as_json, as_markdown, speed_cells
from rerank_plugins.evaluation.results import Evaluation, System
from rerank_plugins.spec import load_backend

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["as_lines", "evaluate_datasets"]

_STYLES = {"better": "green", "worse": "red", "unclear": "yellow"}
_UNBOUNDED = 10_000
"""More characters than a table has; rich calls no table wider than its terminal."""
_MARKS = {"better": "▲", "worse": "▼", "unclear": "="}


def evaluate_datasets(
    datasets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATASET]...",
            help="A BEIR folder, a .jsonl file, irds:ID, demo:NAME, or a corpus with --qrels.",
        ),
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
    demo: Annotated[
        bool,
        typer.Option("--demo", help="Use the two small datasets in this package."),
    ] = False,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="METRIC",
            help=f"{METRIC_FORMS}. Give it several times; the first one decides what is better. "
            f"Else {', '.join(DEFAULT_METRICS)}.",
        ),
    ] = None,
    depth: Annotated[
        int, typer.Option(min=1, help="How many candidates to rerank.")
    ] = DEFAULT_DEPTH,
    depths: Annotated[
        list[int] | None,
        typer.Option("--at", min=1, help="A shallower depth to report, once or more."),
    ] = None,
    queries: Annotated[
        int | None, typer.Option(min=1, help="Use the first N queries only.")
    ] = None,
    qrels: Annotated[
        Path | None, typer.Option(help="Judgements, in TREC's format or BEIR's.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="The first stage's order, in TREC's format; else BM25.")
    ] = None,
    topics: Annotated[
        Path | None, typer.Option(help="Queries beside a corpus: JSON Lines, or ID<TAB>TEXT.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the reports, and for the scores that later runs reuse.")
    ] = Path("rerank-eval"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Ignore the scores of earlier runs.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the intervals and tests.")] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Rerank judged queries with each backend, and compare with the first stage's order.

    Writes OUT/DATASET/report.html, report.md and results.json. To resume an
    interrupted run, give the same command again.
    """
    from rich.console import Console  # noqa: PLC0415  # `--version` and errors need no rich

    names = [*(datasets or []), *(f"demo:{name}" for name in (DEMO_NAMES if demo else ()))]
    if not names:
        raise typer.BadParameter("name a dataset, or see --demo", param_hint="'DATASET'")
    messages, console = Console(stderr=True), Console()
    chosen = tuple(dict.fromkeys(map(metric_name, metrics or DEFAULT_METRICS)))
    built = _build(backends or [""])
    refuse_backends(names, what="dataset")
    data = [load_dataset(name, qrels=qrels, run=run, queries=topics, depth=depth) for name in names]
    data = data if queries is None else [dataset.head(queries) for dataset in data]
    reported = [_depths(dataset, depth, depths) for dataset in data]
    scores = out / "scores"
    if fresh:
        _remove_scores(scores, data)
    total = sum(len(dataset.queries) for dataset in data) * len(built)
    with progress(messages, ", ".join(dataset.name for dataset in data), total) as step:
        scored = score_backends(
            built,
            list(zip(data, reported, strict=True)),
            owned=built,
            folder=scores,
            on_query=step,
        )
    results = []
    for dataset, kept, below in zip(data, scored, reported, strict=True):
        result = summarise(dataset, kept, metrics=chosen, depths=below, seed=seed)
        results.append(result)
        page = _write(out / re.sub(r"[^\w.-]+", "-", dataset.name), result)
        with printing():
            if not json_output:
                _print(console, result)
        if not json_output and not console.is_terminal:  # whose reader wants figures alone
            for system in result.backends:
                sentence = verdict(result, system).sentence
                messages.print(
                    f"{system.label}: {sentence}", highlight=False, markup=False, soft_wrap=True
                )
        messages.print(
            f"report: {page}", style="dim", highlight=False, markup=False, soft_wrap=True
        )
    if json_output:
        with printing():
            sys.stdout.write(f"[{','.join(map(as_json, results))}]\n")


def _build(specs: Sequence[str]) -> dict[str, Backend]:
    """Build all backends, by label; none loads its model before it scores."""
    built = {}
    for spec in dict.fromkeys(specs):
        backend = load_backend(spec or None)
        built[spec or backend.label] = backend
    return built


def _depths(data: Dataset, depth: int, depths: Sequence[int] | None) -> tuple[int, ...]:
    """Return the depths to report: none is deeper than the longest list of candidates."""
    deepest = min(depth, max(map(len, data.candidates.values())) or 1)
    return sweep(deepest, None if depths is None else [at for at in depths if at < deepest])


def _remove_scores(folder: Path, data: Iterable[Dataset]) -> None:
    """Remove the scores that earlier runs kept of these datasets."""
    for dataset in data:
        for path in folder.glob(f"{dataset.digest[:16]}-*.jsonl"):
            path.unlink()


def _write(folder: Path, result: Evaluation) -> Path:
    """Write the report in three formats; return the path of the page."""
    from rerank_plugins.evaluation.report.page import as_html  # noqa: PLC0415  # only at the end

    page = folder / "report.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(
            {
                page: as_html(result),
                folder / "report.md": as_markdown(result),
                folder / "results.json": as_json(result),
            }
        )
    except OSError as error:
        raise OutputError(f"can't write to {str(folder)!r}: {error.strerror or error}") from error
    return page


def _print(console: Console, result: Evaluation) -> None:
    if not console.is_terminal:
        sys.stdout.writelines(as_lines(result))
        return
    from rich.text import Text  # noqa: PLC0415  # only a terminal needs it

    console.print(*_as_tables(result, console), sep="\n")
    for system in result.backends:
        judged = verdict(result, system)
        line = Text(f"{_MARKS[judged.kind]} ", style=_STYLES[judged.kind])
        console.print(line.append(f"{system.label}: ", "bold").append(judged.sentence, "default"))
    for remark in remarks(result):
        console.print(Text(f"  {remark}", style="dim"))
    console.print()


def _head(result: Evaluation) -> tuple[str, ...]:
    return (result.dataset.name, *result.metrics, "p50 ms", "p95 ms", "p99 ms", "pairs/s")


def as_lines(result: Evaluation) -> Iterator[str]:
    """Yield the figures as tab-separated lines under a line of column names."""
    yield "\t".join(_head(result)) + "\n"
    for system in result.systems:
        figures = (figure(estimate.mean) for estimate in system.figures.values())
        yield "\t".join((system.label, *figures, *speed_cells(system.speed)[:4])) + "\n"


def _as_tables(result: Evaluation, console: Console) -> list[Table]:
    """Draw one table, or one for quality and one for speed where one is too wide."""
    table = _as_table(result, quality=True, speed=True)
    unbounded = console.options.update(max_width=_UNBOUNDED)
    if console.measure(table, options=unbounded).maximum <= console.width:
        return [table]
    return [
        _as_table(result, quality=True, speed=False),
        _as_table(result, quality=False, speed=True),
    ]


def _as_table(result: Evaluation, *, quality: bool, speed: bool) -> Table:
    from rich.table import Table  # noqa: PLC0415  # only a terminal needs it
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, header_style="bold")
    head = _head(result)
    count = len(result.metrics)
    columns = [*(head[1 : 1 + count] if quality else ()), *(head[1 + count :] if speed else ())]
    table.add_column(Text(head[0]), overflow="fold")
    for column in columns:
        table.add_column(Text(column), justify="right", no_wrap=True)
    for system in result.systems:
        cells = [_figure_cell(result, system, metric) for metric in result.metrics]
        speeds = speed_cells(system.speed)[:4]
        table.add_row(Text(system.label), *(cells if quality else ()), *(speeds if speed else ()))
        if quality:
            ranges = (
                Text(interval(estimate).replace(" to ", "–"), style="dim")
                for estimate in system.figures.values()
            )
            table.add_row("", *ranges)
    return table


def _figure_cell(result: Evaluation, system: System, metric: str) -> str:
    shown = figure(system.figures[metric].mean)
    if system is result.baseline:
        return shown
    test = result.compared(system.label, result.baseline.label, metric)
    if not test.significant:
        return shown
    return f"[green]{shown} ▲[/]" if test.difference.mean > 0 else f"[red]{shown} ▼[/]"
