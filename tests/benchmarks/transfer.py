"""Calibrate backends on judged sets; measure one threshold for all of them on other sets.

python tests/benchmarks/transfer.py --data DIR --fit squad-dev,nq-gold --test xquad-en,covidqa \
    --scores DIR embedded local:MODEL

DIR holds BEIR folders. Prints for each backend and set the calibration error before and after, and
what `min_score` keeps of the relevant candidates and how precise it is.
"""
# ruff: noqa: T201 - a script talks to its terminal

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path[0] = str(Path(__file__).parents[2])  # the modules are `tests.benchmarks.…`

from rerank_plugins import load_backend  # noqa: E402
from rerank_plugins.evaluation import load_dataset  # noqa: E402
from rerank_plugins.evaluation.calibration import calibrate  # noqa: E402
from rerank_plugins.evaluation.scoring import score_candidates  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Calibrate and measure each backend."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("backends", nargs="+", help="specs")
    parser.add_argument("--data", type=Path, required=True, help="folders of judged sets")
    parser.add_argument("--fit", required=True, help="names of the sets to fit on, with commas")
    parser.add_argument("--test", required=True, help="names of the sets to measure")
    parser.add_argument("--queries", type=int, default=80)
    parser.add_argument("--depth", type=int, default=10)
    parser.add_argument("--min-score", type=float, default=0.3)
    parser.add_argument("--scores", type=Path, help="folder that keeps scores")
    chosen = parser.parse_args(arguments)
    fitted, tests = (
        [load_dataset(chosen.data / name).head(chosen.queries) for name in names.split(",")]
        for names in (chosen.fit, chosen.test)
    )
    for spec in chosen.backends:
        with load_backend(spec) as backend:
            report = calibrate(
                fitted, backend, tests=tests, depth=chosen.depth, scores=chosen.scores
            )
            print(spec, report.calibration.table())
            measured = [(report.before, report.after), *report.tests]
            for before, after in measured:
                print(f"  {after.sets}: error {before.error} -> {after.error}")
            for data in tests:
                scored = score_candidates(backend, data, [chosen.depth], folder=chosen.scores)
                rows = [
                    (score, data.qrels[query].get(document, 0) > 0)
                    for query, each in scored.items()
                    for score, document in zip(
                        each.down_to(chosen.depth), data.candidates[query], strict=False
                    )
                ]
                raw, relevant = np.array(rows).T
                curve = np.array(report.calibration.probabilities_of(raw.tolist()))
                print(
                    f"  {data.name}: {relevant.mean():.1%} relevant;",
                    _kept(raw, relevant, chosen),
                    "as it came;",
                    _kept(curve, relevant, chosen),
                    "calibrated",
                )
    return 0


def _kept(values: np.ndarray, relevant: np.ndarray, chosen: argparse.Namespace) -> str:
    kept = values >= chosen.min_score
    precision = relevant[kept].mean() if kept.any() else float("nan")
    recall = relevant[kept].sum() / relevant.sum()
    return f"precision {precision:.0%}, recall {recall:.0%}"


if __name__ == "__main__":
    raise SystemExit(main())
