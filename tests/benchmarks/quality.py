"""Measure the quality of local backends on judged sets; write the published tables.

python tests/benchmarks/quality.py --data DIR --backend embedded --backend NAME=SPEC \
    --out docs/quality/results.json --page docs/quality.md

DIR holds BEIR folders, each with BM25's candidates (`candidates.tsv`). From each set
up to 1,000 questions are drawn, and those at odd positions are used: the others chose the
embedded model's method. `--scores` saves scores, so that a run can be interrupted, and a model
added later.
"""
# ruff: noqa: T201 - a script talks to its terminal

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path[0] = str(Path(__file__).parents[2])  # the modules are `tests.benchmarks.…`

from rerank_plugins.evaluation import Dataset, Evaluation, evaluate, load_dataset  # noqa: E402
from tests.benchmarks.page import fill_marked  # noqa: E402 - only found by the line above
from tests.benchmarks.plot import intervals  # noqa: E402 - as the line above

DRAWN, SEED = 1000, 13
METRICS = ("nDCG@10", "MRR@10")


def main(arguments: list[str] | None = None) -> int:
    """Evaluate set after set; the results are written after each."""
    chosen = _parse(arguments)
    backends = dict(_named(spec) for spec in chosen.backend)
    results: dict[str, Any] = {"depth": chosen.depth, "seed": SEED, "backends": {}, "sets": {}}
    if chosen.out.exists():
        before = json.loads(chosen.out.read_text("utf-8"))
        results["sets"] = before["sets"]
    for folder in sorted(path.parent for path in chosen.data.glob("*/corpus.jsonl")):
        began = time.monotonic()
        data = held_out(replace(load_dataset(folder), name=folder.name, first_stage="BM25"))
        if chosen.queries:
            data = data.head(chosen.queries)
        evaluation = evaluate(
            data, backends, metrics=METRICS, depth=chosen.depth, depths=[], scores=chosen.scores
        )
        results["sets"][folder.name] = facts(evaluation)
        results["backends"] = {system.label: system.name for system in evaluation.backends}
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
        print(f"{folder.name}: {time.monotonic() - began:.0f} s", flush=True)
    made = tables(results)
    if chosen.page is not None:
        chosen.page.write_text(fill_marked(chosen.page.read_text("utf-8"), made), "utf-8")
        drawing = plot(results)
        (chosen.page.with_suffix("") / "gains.svg").write_text(drawing, "utf-8")
    print(*made.values(), sep="\n\n")
    return 0


def held_out(data: Dataset) -> Dataset:
    """Return the questions at odd positions of those drawn; the even ones chose the method."""
    queries = list(data.queries)
    drawn = np.random.default_rng(SEED).permutation(len(queries))[:DRAWN]
    chosen = [queries[position] for position in drawn if position % 2]
    return replace(
        data,
        queries={query: data.queries[query] for query in chosen},
        qrels={query: data.qrels[query] for query in chosen},
        candidates={query: data.candidates[query] for query in chosen},
    )


def facts(evaluation: Evaluation) -> dict[str, Any]:
    """Return what the tables need, and what a reader may want to compute further."""
    return {
        "queries": len(evaluation.dataset.queries),
        "documents": len(evaluation.dataset.documents),
        "warnings": list(evaluation.dataset.warnings),
        "systems": {
            system.label: {metric: asdict(value) for metric, value in system.figures.items()}
            for system in evaluation.systems
        },
        "comparisons": [asdict(comparison) for comparison in evaluation.comparisons],
    }


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Return the tables of the page, as Markdown, by the names of their places."""
    return {
        "quality": _quality(results),
        "mrr": _means(results, "MRR@10"),
        "pairs": _pairs(results),
    }


def plot(results: Mapping[str, Any]) -> str:
    """Draw the gains in nDCG@10 with their intervals."""
    rows = {
        name: {
            label: _span(_compared(figures, label, "BM25", "nDCG@10"))
            for label in results["backends"]
        }
        for name, figures in _ordered(results)
    }
    return intervals("Gain in nDCG@10 over BM25, with 95 % intervals", rows)


def _ordered(results: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """English first, then Chinese."""
    names = sorted(results["sets"], key=lambda name: (name in CHINESE, name))
    return ((name, results["sets"][name]) for name in names)


CHINESE = ("cmrc2018-dev", "drcd-test", "xquad-zh")


def _compared(
    figures: Mapping[str, Any], label: str, against: str, metric: str
) -> Mapping[str, Any]:
    row: Mapping[str, Any] = next(
        row
        for row in figures["comparisons"]
        if (row["metric"], row["label"], row["against"]) == (metric, label, against)
    )
    return row


def _span(row: Mapping[str, Any]) -> tuple[float, float, float]:
    difference = row["difference"]
    return difference["mean"], difference["low"], difference["high"]


def _quality(results: Mapping[str, Any]) -> str:
    rows = []
    for name, figures in _ordered(results):
        cells = [
            name,
            str(figures["queries"]),
            f"{figures['systems']['BM25']['nDCG@10']['mean']:.3f}",
        ]
        for label in results["backends"]:
            mean = figures["systems"][label]["nDCG@10"]["mean"]
            row = _compared(figures, label, "BM25", "nDCG@10")
            cells += [f"{mean:.3f}", _gain(row)]
        rows.append(cells)
    columns = ["set", "questions", "BM25"]
    for label in results["backends"]:
        columns += [label, "gain"]
    return _table(columns, rows)


def _gain(row: Mapping[str, Any]) -> str:
    """Write a gain with its interval; in bold where it is significant."""
    mean, low, high = _span(row)
    shown = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−")
    return f"**{shown}**" if row["adjusted"] < 0.05 else shown


def _means(results: Mapping[str, Any], metric: str) -> str:
    labels = ["BM25", *results["backends"]]
    rows = []
    for name, figures in _ordered(results):
        cells = []
        for label in labels:
            value = figures["systems"][label][metric]
            cells.append(f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]")
        rows.append([name, *cells])
    return _table(["set", *labels], rows)


def _pairs(results: Mapping[str, Any]) -> str:
    """Return how many questions got better and worse, with the corrected p."""
    rows = []
    for name, figures in _ordered(results):
        for label in results["backends"]:
            row = _compared(figures, label, "BM25", "nDCG@10")
            p = row["adjusted"]
            shown = "< 0.001" if p < 0.001 else f"{p:.3f}"
            rows.append([name, label, str(row["better"]), str(row["worse"]), shown])
    return _table(["set", "backend", "better", "worse", "p"], rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _named(spec: str) -> tuple[str, str]:
    name, equals, rest = spec.partition("=")
    return (name, rest) if equals and ":" not in name and "?" not in name else (spec, spec)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folders of judged sets")
    parser.add_argument("--backend", action="append", required=True, metavar="[NAME=]SPEC")
    parser.add_argument("--depth", type=int, default=50, help="candidates to rerank")
    parser.add_argument("--queries", type=int, help="at most so many of each set")
    parser.add_argument("--scores", type=Path, help="a folder that keeps scores")
    parser.add_argument("--out", type=Path, default=Path("quality.json"), help="JSON")
    parser.add_argument("--page", type=Path, help="a page whose tables and plot to write anew")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
