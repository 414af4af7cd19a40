"""`rerank-plugins calibrate`: make probabilities of a backend's scores."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from rerank_plugins._internal.terminal import escaped, to_json
from rerank_plugins._internal.whole_files import write_whole
from rerank_plugins.cli.misplaced import refuse_backends
from rerank_plugins.cli.output import OutputError, printing
from rerank_plugins.cli.progress import progress
from rerank_plugins.evaluation.calibration import CalibrationReport, Measured, calibrate
from rerank_plugins.evaluation.calibration.calibrate import DEFAULT_DEPTH
from rerank_plugins.evaluation.calibration.text import as_dict, as_toml
from rerank_plugins.evaluation.datasets import load_dataset
from rerank_plugins.evaluation.statistics import Estimate
from rerank_plugins.spec import load_backend
from rerank_plugins.wrappers.calibrated import Method

__all__ = ["calibrate_backend"]


def calibrate_backend(
    datasets: Annotated[
        list[str],
        typer.Argument(metavar="DATASET...", help="Judged queries; `eval` reads the same."),
    ],
    *,
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            "-b",
            metavar="SPEC",
            help="The backend to calibrate. Else $RERANK_BACKEND, else embedded.",
        ),
    ] = None,
    tests: Annotated[
        list[str] | None,
        typer.Option("--test", metavar="DATASET", help="Another set to measure it on."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="temperature, platt or isotonic. Else the loss on held-out queries."),
    ] = None,
    precision: Annotated[
        list[float] | None,
        typer.Option(min=0, max=1, help="Find the lowest min_score with this precision."),
    ] = None,
    recall: Annotated[
        list[float] | None,
        typer.Option(min=0, max=1, help="Find the highest min_score with this recall."),
    ] = None,
    depth: Annotated[
        int, typer.Option(min=1, help="How many candidates of a query to score.")
    ] = DEFAULT_DEPTH,
    queries: Annotated[int | None, typer.Option(min=1, help="Use the first N queries.")] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the files, and for the scores that later runs reuse.")
    ] = Path("rerank-calibration"),
    seed: Annotated[int, typer.Option(min=0, help="The seed of folds and intervals.")] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Fit a curve from scores to probabilities on judged queries.

    Writes OUT/calibration.toml, whose table [calibration] a configuration file
    takes as it is, and a spec by its path: SPEC?calibration=OUT/calibration.toml.
    Also writes OUT/reliability.svg and OUT/results.json.
    """
    from rich.console import Console  # noqa: PLC0415  # `--version` and errors need no rich

    from rerank_plugins.evaluation.report.reliability_plot import (  # noqa: PLC0415  # at the end
        reliability_plot,
    )

    built = load_backend(backend)
    refuse_backends([*datasets, *(tests or [])], what="dataset")
    fitted, other = (
        [load_dataset(name, depth=depth) for name in names] for names in (datasets, tests or [])
    )
    if queries is not None:
        fitted, other = ([data.head(queries) for data in each] for each in (fitted, other))
    messages = Console(stderr=True)
    total = sum(len(data.queries) for data in (*fitted, *other))
    with built, progress(messages, ", ".join(data.name for data in fitted), total) as step:
        report = calibrate(
            fitted,
            built,
            tests=other,
            method=_method(method),
            depth=depth,
            precision=precision or (),
            recall=recall or (),
            scores=out / "scores",
            seed=seed,
            on_query=step,
        )
    path = out / "calibration.toml"
    plot = reliability_plot(report.before, report.after, title=report.after.sets)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(
            {
                path: as_toml(report),
                out / "reliability.svg": plot,
                out / "results.json": to_json(as_dict(report)),
            }
        )
    except OSError as error:
        raise OutputError(f"can't write to {str(out)!r}: {error.strerror or error}") from error
    with printing():
        if json_output:
            sys.stdout.write(to_json(as_dict(report)))
        else:
            sys.stdout.writelines(f"{escaped(line)}\n" for line in _lines(report))
    for note in report.warnings:
        typer.echo(f"note: {escaped(note)}", err=True)
    typer.echo(f"calibration: {path}", err=True)


def _method(name: str | None) -> Method | None:
    methods: dict[str, Method] = {
        "temperature": "temperature",
        "platt": "platt",
        "isotonic": "isotonic",
    }
    if name is not None and name not in methods:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(methods)}", param_hint="--method")
    return None if name is None else methods[name]


def _lines(report: CalibrationReport) -> Iterator[str]:
    """Yield what the calibration is and what it is worth."""
    table = report.calibration.table()
    shown = ", ".join(
        f"{name} {value:.4g}" for name, value in table.items() if isinstance(value, float)
    )
    knots = f"{len(report.calibration.scores)} knots" if report.calibration.scores else ""
    yield f"{report.label}: {report.calibration.method}, {shown or knots}"
    losses = ", ".join(f"{name} {loss:.4f}" for name, loss in report.losses.items())
    yield f"loss on held-out queries: {losses}"
    for name, reason in report.untried.items():
        yield f"not tried: {name}: {reason}"
    yield "expected calibration error, with its 95 % interval:"
    for before, after in ((report.before, report.after), *report.tests):
        fitted = " (held out)" if after is report.after else ""
        yield f"  {after.sets}{fitted}: {_error(before)} before, {_error(after)} after"
    for threshold in report.thresholds:
        wish = f"{threshold.wish} {threshold.value:g}"
        if threshold.min_score is None:
            yield f"{wish}: no min_score reaches it"
            continue
        yield (
            f"{wish}: min_score={threshold.min_score:.6g}, with precision "
            f"{_share(threshold.precision)} and recall {_share(threshold.recall)}"
        )


def _error(measured: Measured) -> str:
    error = measured.error
    return f"{error.mean:.4f} ({error.low:.4f} to {error.high:.4f})"


def _share(estimate: Estimate | None) -> str:
    if estimate is None:
        return "unknown"
    return f"{estimate.mean:.1%} ({estimate.low:.1%} to {estimate.high:.1%})"
