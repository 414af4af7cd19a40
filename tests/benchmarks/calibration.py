"""Fit the embedded model's probabilities on judged sets, or measure them on other questions.

python tests/benchmarks/calibration.py --data DIR --fit                    # slope and offset
python tests/benchmarks/calibration.py --data DIR --plot reliability.svg   # error, thresholds, plot

DIR holds BEIR folders, each with BM25's candidates (`candidates.tsv`). From each set 200 questions
are drawn; those at even positions are fitted, those at odd positions measured, as in `quality.py`.
Each has one relevant passage and up to seven others, those that BM25 ranks highest.
"""
# ruff: noqa: T201 - a script talks to its terminal

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path[0] = str(Path(__file__).parents[2])  # the modules are `tests.benchmarks.…`

from rerank_plugins.backends.embedded.embedder import TokenEmbedder  # noqa: E402
from rerank_plugins.backends.embedded.scorer import LateInteractionScorer  # noqa: E402
from rerank_plugins.backends.scale import to_probability  # noqa: E402
from rerank_plugins.evaluation import Dataset, load_dataset  # noqa: E402
from tests.benchmarks.plot import reliability  # noqa: E402 - only found by the line above

DRAWN, SEED, OTHERS, DEPTH = 200, 13, 7, 30
THRESHOLDS = (0.05, 0.1, 0.2, 0.5)
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "Chinese": ("xquad-zh", "cmrc2018-dev", "drcd-test"),
    "English, Wikipedia": ("xquad-en", "squad-dev", "nq-gold"),
    "English, science": ("covidqa", "pubmedqa"),
    "Python code": ("cosqa",),
}

Array = NDArray[np.float64]


def main(arguments: list[str] | None = None) -> int:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folders of judged sets")
    parser.add_argument("--fit", action="store_true", help="fit the curve instead")
    parser.add_argument("--plot", type=Path, help="an SVG file to write")
    chosen = parser.parse_args(arguments)
    embedder = TokenEmbedder(max_length=1024, threads=2, cached_tokens=1 << 22)
    scorer = LateInteractionScorer(embedder)
    pairs = {
        name: matches(scorer, load_dataset(chosen.data / name), odd=not chosen.fit)
        for names in FAMILIES.values()
        for name in names
    }
    everything = np.concatenate(list(pairs.values()))
    if chosen.fit:
        slope, offset = logistic(everything[:, [0, 2]])
        print(f"slope {slope:.1f}, offset {offset:.1f}, {len(everything)} pairs")
        return 0
    families = {
        family: np.concatenate([pairs[name] for name in names])[:, 1:]
        for family, names in FAMILIES.items()
    }
    low, high = interval(everything[:, 1:])
    print(f"error {error(everything[:, 1:]):.4f} [{low:.4f}, {high:.4f}], {len(everything)} pairs")
    for least in THRESHOLDS:
        print(least, *(f"{family}: {kept(part, least)}" for family, part in families.items()))
    if chosen.plot is not None:
        curves = {"all": bins(everything[:, 1:]), **{n: bins(p) for n, p in families.items()}}
        chosen.plot.write_text(reliability("Predicted and observed relevance", curves), "utf-8")
    return 0


def matches(scorer: LateInteractionScorer, data: Dataset, *, odd: bool) -> Array:
    """Return similarity, probability and relevance of each pair."""
    rows = [
        (match.similarity, match.probability, float(position == 0))
        for query, texts in _questions(data, odd=odd)
        for position, match in enumerate(scorer.matches(query, texts))
    ]
    return np.array(rows)


def _questions(data: Dataset, *, odd: bool) -> Iterator[tuple[str, list[str]]]:
    queries = list(data.queries)
    for position in np.random.default_rng(SEED).permutation(len(queries))[:DRAWN]:
        if position % 2 != odd:
            continue
        query = queries[position]
        found = data.candidates[query][:DEPTH]
        relevant = [document for document in found if data.qrels[query].get(document, 0) > 0]
        others = [document for document in found if document not in relevant]
        if relevant:
            texts = [data.documents[document] for document in (relevant[0], *others[:OTHERS])]
            yield data.queries[query], texts


def logistic(pairs: Array) -> tuple[float, float]:
    """Return slope and offset of the likeliest logistic curve of (number, 0 or 1), by Newton."""
    x = np.stack([pairs[:, 0], np.ones(len(pairs))], axis=1)
    weights = np.zeros(2)
    for _ in range(50):
        p = np.array(to_probability(x @ weights))
        step = np.linalg.solve((x * (p * (1.0 - p))[:, None]).T @ x, x.T @ (pairs[:, 1] - p))
        weights += step
    return float(weights[0]), float(weights[1])


def bins(pairs: Array) -> list[tuple[float, float, int]]:
    """Return mean probability, share of relevant ones, and count, for each tenth that is filled."""
    tenth = np.minimum((pairs[:, 0] * 10).astype(int), 9)
    parts = [pairs[tenth == number] for number in range(10)]
    return [(*map(float, part.mean(axis=0)), len(part)) for part in parts if len(part)]


def error(pairs: Array) -> float:
    """Return the expected calibration error, https://arxiv.org/abs/1706.04599."""
    return sum(count * abs(told - seen) for told, seen, count in bins(pairs)) / len(pairs)


def interval(pairs: Array, samples: int = 1000) -> Any:
    """Return the 95 % interval of the error, by the bootstrap."""
    random = np.random.default_rng(SEED)
    draws = (random.integers(0, len(pairs), len(pairs)) for _ in range(samples))
    return np.percentile([error(pairs[draw]) for draw in draws], [2.5, 97.5])


def kept(pairs: Array, least: float) -> str:
    """Say what share of the relevant ones a threshold keeps, and of the others it drops."""
    is_relevant, is_kept = pairs[:, 1] == 1, pairs[:, 0] >= least
    return f"{is_kept[is_relevant].mean():.0%} kept, {1 - is_kept[~is_relevant].mean():.0%} dropped"


if __name__ == "__main__":
    raise SystemExit(main())
