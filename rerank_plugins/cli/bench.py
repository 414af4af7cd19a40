"""`rerank-plugins bench`: the speed of backends on this machine, side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rerank_plugins._internal.optional import require
from rerank_plugins._internal.text_files import TEXT_KEYS
from rerank_plugins.backend import Backend
from rerank_plugins.bench.reference import ReferenceBackend
from rerank_plugins.bench.speed import WARM_UP, RankAgreement, Speed, compare_speed
from rerank_plugins.bench.workload import Mix, Shape, Workload
from rerank_plugins.cli.documents import FileFormat, read_documents
from rerank_plugins.cli.output import printing
from rerank_plugins.cli.tune import run_tuning
from rerank_plugins.errors import DataError, MissingDependencyError
from rerank_plugins.spec import load_backend

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["as_json", "as_lines", "bench"]

_SHAPES = ("1x20", "1x100", "4x20")
_QUALITY = ("τ", "top 10")
_COLUMNS = ("shape", "backend", "p50 ms", "p95 ms", "p99 ms", "pairs/s", "cpu ms/pair", "× first")


def bench(
    specs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SPEC]...",
            help="What to measure: specs or .toml files. Else $RERANK_BACKEND, else embedded.",
        ),
    ] = None,
    *,
    backends: Annotated[
        list[str] | None,
        typer.Option("--backend", "-b", metavar="SPEC", help="Same as SPEC; once or more."),
    ] = None,
    tuned: Annotated[
        str | None,
        typer.Option("--tune", metavar="MODEL", help="Find the fastest settings of a local model."),
    ] = None,
    budget: Annotated[
        float, typer.Option(min=1, help="About how many seconds --tune may take.")
    ] = 120,
    allow_inexact: Annotated[
        bool,
        typer.Option("--allow-inexact", help="Let --tune choose int8 or half precision."),
    ] = False,
    shapes: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            help="QUERIESxDOCUMENTS per call, once or more. "
            "Else 1x20, 1x100 and 4x20; 1x20 for --tune.",
        ),
    ] = None,
    mix: Annotated[str, typer.Option(help="Lengths of generated documents: natural or skewed.")] = (
        "natural"
    ),
    file: Annotated[
        Path | None,
        typer.Option(help="Your own documents; `rank` reads the same files."),
    ] = None,
    calls: Annotated[int, typer.Option(min=1, help="Measured calls per backend and shape.")] = 5,
    reference: Annotated[
        bool,
        typer.Option(help="Also measure sentence-transformers on the same model, if installed."),
    ] = True,
    quality: Annotated[
        bool,
        typer.Option(
            "--quality",
            help="Also tell how alike each ranks to the first: Kendall's τ, and the share of the "
            "ten best.",
        ),
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Time backends in turns on the same new texts.

    Compare the ratios: absolute times depend on the machine.
    """
    from rich.console import Console  # noqa: PLC0415  # `--version` and errors need no rich
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

    specs = [*(specs or []), *(backends or [])]
    if tuned is None and allow_inexact:
        raise typer.BadParameter("only with --tune", param_hint="--allow-inexact")
    sizes = [Shape.parse(text) for text in shapes or (_SHAPES if tuned is None else _SHAPES[:1])]
    workload = _workload(mix, file)
    if tuned is not None:
        if quality:
            raise typer.BadParameter("--tune tells it already", param_hint="--quality")
        if specs or len(sizes) > 1:
            raise typer.BadParameter("takes one model and one shape", param_hint="--tune")
        run_tuning(
            tuned,
            workload,
            sizes[0],
            calls=calls,
            seconds=budget,
            allow_inexact=allow_inexact,
            json_output=json_output,
        )
        return
    messages = Console(stderr=True)
    results: list[Mapping[str, Speed]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        ExitStack() as opened,
        Progress(
            *columns, console=messages, transient=True, disable=not messages.is_terminal
        ) as shown,
    ):
        measured = _opened(specs or [""], opened, reference=reference)
        for number, shape in enumerate(sizes, start=1):
            activity = f"{shape}, shape {number} of {len(sizes)}: calls"
            task = shown.add_task(activity, total=len(measured) * (WARM_UP + calls))
            results.append(
                compare_speed(
                    measured,
                    shape,
                    workload,
                    calls=calls,
                    quality=quality,
                    on_call=partial(shown.advance, task),
                )
            )
            shown.remove_task(task)
    console = Console()
    with printing():
        if json_output:
            sys.stdout.write(as_json(results))
        elif console.is_terminal:
            console.print(_as_table(results, quality=quality))
        else:
            sys.stdout.writelines(as_lines(results, quality=quality))


def _opened(specs: Sequence[str], opened: ExitStack, *, reference: bool) -> dict[str, Backend]:
    """Build the backends to measure, the reference first."""
    backends = {
        spec or "default": opened.enter_context(load_backend(spec or None)) for spec in specs
    }
    if not reference:
        return backends
    leaves = (leaf for backend in backends.values() for leaf in backend.walk())
    for leaf in leaves:
        if leaf.kind == "local" and _installed():
            device = leaf.describe()["device"]  # loads the model: a broken one raises our errors
            peer = ReferenceBackend(str(leaf.model), device=str(device))
            return {peer.name: opened.enter_context(peer), **backends}
    return backends


def _installed() -> bool:
    try:
        require("sentence_transformers", extra="local")
    except MissingDependencyError:
        return False
    return True


def _workload(mix: str, file: Path | None) -> Workload:
    if mix not in ("natural", "skewed"):
        raise typer.BadParameter(f"{mix!r} is neither natural nor skewed", param_hint="--mix")
    texts = []
    if file is not None:
        texts = [entry.text for entry in read_documents([file], FileFormat.AUTO, TEXT_KEYS)]
        if not texts:
            raise DataError(f"{str(file)!r} holds no documents to measure with")
    chosen: Mix = "natural" if mix == "natural" else "skewed"
    return Workload(chosen, texts=texts)


def _columns(*, quality: bool) -> tuple[str, ...]:
    return (*_COLUMNS, *_QUALITY) if quality else _COLUMNS


def _cells(results: Sequence[Mapping[str, Speed]]) -> list[tuple[str, ...]]:
    rows = []
    for speeds in results:
        first = next(iter(speeds.values()))
        for name, speed in speeds.items():
            times = (f"{1000 * speed.percentile(percent):.1f}" for percent in (50, 95, 99))
            ratio = first.percentile(50) / speed.percentile(50)
            rows.append(
                (
                    str(speed.shape),
                    name,
                    *times,
                    f"{speed.pairs_per_second:.0f}",
                    f"{1000 * speed.cpu_per_pair:.2f}",
                    f"{ratio:.2f}",
                    *_alike(speed.agreement),
                )
            )
    return rows


def _alike(agreement: RankAgreement | None) -> tuple[str, ...]:
    if agreement is None:
        return ()
    tau = "–" if agreement.tau is None else f"{agreement.tau:.3f}"
    return tau, f"{100 * agreement.top:.0f} %"


def as_lines(results: Sequence[Mapping[str, Speed]], *, quality: bool = False) -> list[str]:
    """Return the figures as tab-separated lines under a line of column names."""
    rows = (_columns(quality=quality), *_cells(results))
    return ["\t".join(row) + "\n" for row in rows]


def _as_table(results: Sequence[Mapping[str, Speed]], *, quality: bool) -> Table:
    from rich.table import Table  # noqa: PLC0415  # only a terminal needs it

    table = Table(box=None, header_style="bold")
    for column in _columns(quality=quality):
        table.add_column(column, justify="left" if column in _COLUMNS[:2] else "right")
    for row in _cells(results):
        table.add_row(*row)
    return table


def as_json(results: Sequence[Mapping[str, Speed]]) -> str:
    """Return every call of every backend as one JSON document; times are in seconds."""
    rows = [
        {
            "shape": str(speed.shape),
            "backend": name,
            "seconds": speed.seconds,
            "cpu_seconds": speed.cpu_seconds,
            "p50": speed.percentile(50),
            "p95": speed.percentile(95),
            "p99": speed.percentile(99),
            "pairs_per_second": speed.pairs_per_second,
            **({} if speed.agreement is None else asdict(speed.agreement)),
        }
        for speeds in results
        for name, speed in speeds.items()
    ]
    return json.dumps(rows, indent=2) + "\n"
