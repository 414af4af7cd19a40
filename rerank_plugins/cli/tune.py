"""`rerank-plugins bench --tune`: the settings tried, and the best one to paste."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from rerank_plugins._internal.terminal import escaped, to_json
from rerank_plugins.bench.tune import Trial, Tuning, tune
from rerank_plugins.bench.workload import Shape, Workload
from rerank_plugins.cli.output import printing

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["as_json", "as_lines", "run_tuning"]

_COLUMNS = ("settings", "× original", "p50 ms", "pairs/s", "τ", "difference", "scores")
_SPEC = re.compile(r"[a-z]{2,}[:+?].*|embedded|.*\.toml")


def run_tuning(
    model: str,
    workload: Workload,
    shape: Shape,
    *,
    calls: int,
    seconds: float,
    allow_inexact: bool,
    json_output: bool,
) -> None:
    """Tune a local model and print the result.

    Args:
        model: a spec, a .toml file, a folder or a hub id.
        workload: the source of the texts.
        shape: queries and documents per call.
        calls: measured calls per setting.
        seconds: about how long it may take.
        allow_inexact: whether settings whose scores differ may win.
        json_output: print JSON.
    """
    from rich.console import Console  # noqa: PLC0415  # `--version` and errors need no rich
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

    messages = Console(stderr=True)
    columns = (TextColumn("settings tried"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, console=messages, transient=True, disable=not messages.is_terminal
    ) as shown:
        task = shown.add_task("", total=None)
        tuning = tune(
            _as_spec(model),
            workload,
            shape=shape,
            seconds=seconds,
            calls=calls,
            allow_inexact=allow_inexact,
            on_trial=lambda done, total: shown.update(task, completed=done, total=total),
        )
    console = Console()
    with printing():
        if json_output:
            sys.stdout.write(as_json(tuning, shape))
        elif console.is_terminal:
            console.print(_as_table(tuning, shape))
            console.print(_advice(tuning), highlight=False, markup=False, soft_wrap=True)
        else:
            sys.stdout.writelines(as_lines(tuning, shape))
            sys.stdout.write("\n" + _advice(tuning))
    if tuning.untried:
        typer.echo(
            f"{tuning.untried} settings were not tried for lack of time; allow more with --budget",
            err=True,
        )


def _as_spec(model: str) -> str:
    """Return a spec as it is; take everything else for a folder or a hub id."""
    return model if _SPEC.fullmatch(model) else f"local:{model}"


def _settings(trial: Trial) -> str:
    kept = {key: value for key, value in trial.options.items() if key not in ("kind", "model")}
    return " ".join(f"{key}={value}" for key, value in kept.items()) or "defaults"


def _cells(trial: Trial, shape: Shape) -> tuple[str, ...]:
    if trial.error:
        return _settings(trial), "–", "–", "–", "–", "–", f"can't run: {trial.error}"
    return (
        _settings(trial),
        f"{trial.ratio:.2f}",
        f"{1000 * trial.seconds:.1f}",
        f"{shape.pairs / trial.seconds:.0f}",
        "–" if trial.tau is None else f"{trial.tau:.4f}",
        f"{trial.difference:.1e}",
        "exact" if trial.exact else "differ",
    )


def as_lines(tuning: Tuning, shape: Shape) -> list[str]:
    """Return the trials as tab-separated lines under a line of column names."""
    rows = [_COLUMNS, *(_cells(trial, shape) for trial in tuning.trials)]
    return ["\t".join(escaped(" ".join(cell.split())) for cell in row) + "\n" for row in rows]


def _as_table(tuning: Tuning, shape: Shape) -> Table:
    from rich.table import Table  # noqa: PLC0415  # only a terminal needs it
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, header_style="bold", title=f"{tuning.trials[0].spec}, {shape}")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in ("settings", "scores") else "right")
    for trial in tuning.trials:
        style = "bold green" if trial is tuning.best else "dim" if trial.error else ""
        table.add_row(*map(Text, _cells(trial, shape)), style=style)
    return table


def _advice(tuning: Tuning) -> str:
    best, original = tuning.best, tuning.trials[0]
    verdict = "The original settings are the fastest." if best is original else _verdict(best)
    return f"{verdict}\n\nbackend = {json.dumps(best.spec, ensure_ascii=False)}\n\n{best.toml}"


def _verdict(best: Trial) -> str:
    if best.exact:
        scores = "with the same scores"
    else:
        scores = f"but its scores differ by up to {best.difference:.1e}"
        scores += "" if best.tau is None else f" (Kendall τ {best.tau:.4f} to the exact ones)"
    return f"{best.ratio:.2f} times as fast as the original settings, {scores}:"


def as_json(tuning: Tuning, shape: Shape) -> str:
    """Return all trials and the best one as one JSON document; times are in seconds."""
    return to_json(
        {
            "shape": str(shape),
            "reference": tuning.reference,
            "untried": tuning.untried,
            "trials": _rows(tuning.trials),
            "best": {"spec": tuning.best.spec, "options": dict(tuning.best.options)},
        }
    )


def _rows(trials: Sequence[Trial]) -> list[dict[str, object]]:
    return [
        {
            "spec": trial.spec,
            "ratio": trial.ratio,
            "p50": trial.seconds,
            "kendall_tau": trial.tau,
            "difference": None if trial.error else trial.difference,
            "exact": trial.exact,
            "error": trial.error or None,
        }
        for trial in trials
    ]
