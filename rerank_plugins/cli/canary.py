"""`rerank-plugins canary`: check that a backend still ranks as well as before."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rerank_plugins._internal.terminal import escaped, to_json
from rerank_plugins.backend import Backend
from rerank_plugins.cli.misplaced import refuse_backends
from rerank_plugins.cli.output import OutputError, printing
from rerank_plugins.errors import BackendError
from rerank_plugins.evaluation.canary import Canary, CanaryRun, baseline_of, check
from rerank_plugins.evaluation.conformance import check_conformance
from rerank_plugins.evaluation.datasets import Dataset, load_dataset
from rerank_plugins.evaluation.evaluate import DEFAULT_DEPTH
from rerank_plugins.spec import load_backend

__all__ = ["canary", "seconds_of"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_METRIC = "MRR@10"


def canary(
    dataset: Annotated[str, typer.Argument(help="Judged queries; `eval` reads the same.")],
    *,
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            "-b",
            metavar="SPEC",
            help="The backend to watch. Else $RERANK_BACKEND, else embedded.",
        ),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Repeat after this time: 30s, 10m, 1h. Else run once."),
    ] = None,
    minimum: Annotated[
        float | None, typer.Option("--min", help="The lowest MRR@10 allowed.", min=0, max=1)
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="A results.json of `eval` to compare the MRR@10 with.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="How far below the baseline the MRR@10 may be.", min=0, max=1)
    ] = 0.02,
    label: Annotated[
        str | None, typer.Option(help="The backend in the baseline, if it has several.")
    ] = None,
    textfile: Annotated[
        Path | None, typer.Option(help="Write metrics for node-exporter's textfile collector.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="URL", help="Push metrics to a Pushgateway.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--set", help="The metrics' label `set`; else the dataset's name.")
    ] = None,
    queries: Annotated[int | None, typer.Option(min=1, help="Use the first N queries.")] = None,
    depth: Annotated[
        int, typer.Option(min=1, help="How many candidates to rerank.")
    ] = DEFAULT_DEPTH,
    conformance: Annotated[
        bool,
        typer.Option(
            "--conformance",
            help="First check that equal requests get equal scores, in any order.",
        ),
    ] = False,
    runs: Annotated[
        int | None, typer.Option(min=1, help="With --every: stop after this many runs.")
    ] = None,
) -> None:
    """Rerank judged queries, and check that the ranking is good enough.

    Prints one JSON object per run. Exit code 1: worse than allowed. With --every it
    never stops by itself; set alerts on the metrics.
    """
    pause = None if every is None else seconds_of(every)
    if runs is not None and pause is None:
        raise typer.BadParameter("only with --every", param_hint="'--runs'")
    least = minimum if minimum is not None else 0.0
    if baseline is not None:
        least = max(least, baseline_of(baseline, _METRIC, label=label) - tolerance)
    refuse_backends([dataset], what="dataset")
    data = load_dataset(dataset, depth=depth)
    data = data if queries is None else data.head(queries)
    published = Canary(name or data.name, textfile=textfile, gateway=push)
    with load_backend(backend) as watched:
        once = partial(
            _once, watched, data, published, least=least, depth=depth, conformance=conformance
        )
        if pause is None:
            raise typer.Exit(0 if once() else 1)
        _forever(once, pause=pause, runs=runs)


def seconds_of(text: str) -> float:
    """Return the seconds of `"30s"`, `"10m"`, `"1h"` or `"1d"`.

    Raises:
        typer.BadParameter: it has another form, or is 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None or float(match[1]) == 0:
        raise typer.BadParameter(
            f"{text!r} is not a duration; write 30s, 10m, 1h or 1d", param_hint="'--every'"
        )
    return float(match[1]) * _UNITS[match[2]]


def _forever(once: Callable[[], bool], *, pause: float, runs: int | None) -> None:
    done = 0
    while True:
        start = time.monotonic()
        try:
            once()
        except (BackendError, OutputError) as error:
            typer.echo(f"error: {escaped(' '.join(str(error).split()))}", err=True)
        done += 1
        if runs is not None and done >= runs:
            return
        time.sleep(max(0.0, pause - (time.monotonic() - start)))


def _once(
    watched: Backend,
    data: Dataset,
    published: Canary,
    *,
    least: float,
    depth: int,
    conformance: bool,
) -> bool:
    """Check the ranking, print and publish the result; return whether it is good enough."""
    try:
        if conformance:
            check_conformance(watched)
        run = check(watched, data, depth=depth)
    except BackendError:
        _published(published, None, regression=False)
        raise
    good = run.figures[_METRIC] >= least
    with printing():
        sys.stdout.write(_line(data, run, least, good=good))
    _published(published, run, regression=not good)
    return good


def _line(data: Dataset, run: CanaryRun, least: float, *, good: bool) -> str:
    document = {
        "ok": good,
        "set": data.name,
        **run.figures,
        "least": least,
        "first_stage": run.before,
        "queries": run.queries,
        "seconds": round(run.seconds, 3),
        "p95_seconds": run.p95_seconds,
        "warnings": data.warnings,
    }
    return to_json(document, indent=None)


def _published(published: Canary, run: CanaryRun | None, *, regression: bool) -> None:
    try:
        if run is None:
            published.failed()
        else:
            published.succeeded(run, regression=regression)
    except OSError as error:
        raise OutputError(f"can't publish the metrics: {error}") from error
