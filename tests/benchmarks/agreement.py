"""Stage: how much scores differ from the reference's, on real texts."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from tests.benchmarks.contenders import CONTENDERS, REFERENCE
from tests.benchmarks.models import MODELS
from tests.benchmarks.speed import opened
from tests.support.places import DATA

__all__ = ["kendall_tau", "measure_agreement", "real_requests"]

_SETS = ("covidqa", "cosqa")
_SHARE = 6
"""Others answer one question in so many: enough to see that they do the same work."""


def measure_agreement(
    model: str, models: Path, peers: Path | None, log: IO[str], *, queries: int, documents: int
) -> dict[str, Any]:
    """Compare all contenders' scores of real questions and passages with the reference's."""
    folder = MODELS[model].build(models)
    requests = real_requests(queries, documents)
    with ExitStack() as stack:
        scorers, _ = opened(list(CONTENDERS.values()), folder, peers, log, stack)
        asked = {name: requests if _all(name) else requests[::_SHARE] for name in scorers}
        logits = {name: peer.score_many(asked[name]) for name, peer in scorers.items()}
    expected = logits[REFERENCE]
    flat = [value for row in expected for value in row]
    mean = sum(flat) / len(flat)
    return {
        "model": model,
        "sets": list(_SETS),
        "queries": len(requests),
        "documents": documents,
        "logit_deviation": round(math.sqrt(sum((v - mean) ** 2 for v in flat) / len(flat)), 3),
        "rows": {
            name: _compared(expected if _all(name) else expected[::_SHARE], rows)
            for name, rows in logits.items()
            if name != REFERENCE
        },
    }


def real_requests(queries: int, documents: int) -> list[tuple[str, list[str]]]:
    """Draw questions of each set, with BM25's candidates first and others of the set after."""
    drawn = random.Random(0)
    requests = []
    for name in _SETS:
        corpus = _texts(DATA / name / "corpus.jsonl")
        questions = _texts(DATA / name / "queries.jsonl")
        candidates: dict[str, list[str]] = {}
        for line in (DATA / name / "candidates.tsv").read_text("utf-8").splitlines()[1:]:
            query, document, *_ = line.split("\t")
            candidates.setdefault(query, []).append(document)
        for query in sorted(candidates)[: queries // len(_SETS)]:
            first = candidates[query][:documents]
            others = drawn.sample(sorted(corpus.keys() - set(first)), documents - len(first))
            requests.append((questions[query], [corpus[key] for key in (*first, *others)]))
    return requests


def kendall_tau(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Kendall's τ: +1 for equal orders, -1 for opposite ones; a tie in one counts 0."""
    agreeing = 0
    for n, (a, b) in enumerate(zip(one, other, strict=True)):
        for c, d in zip(one[:n], other[:n], strict=True):
            agreeing += _sign(a - c) * _sign(b - d)
    return 2 * agreeing / (len(one) * (len(one) - 1))


def _all(name: str) -> bool:
    return name == REFERENCE or CONTENDERS[name].ours


def _compared(
    expected: Sequence[Sequence[float]], rows: Sequence[Sequence[float]]
) -> dict[str, float]:
    taus = [kendall_tau(want, have) for want, have in zip(expected, rows, strict=True)]
    pairs = [
        (want, have)
        for wanted, had in zip(expected, rows, strict=True)
        for want, have in zip(wanted, had, strict=True)
    ]
    return {
        "queries": len(rows),
        "tau": round(sum(taus) / len(taus), 4),
        "worst_tau": round(min(taus), 4),
        "logit_difference": _digits(max(abs(want - have) for want, have in pairs)),
        "probability_difference": _digits(max(abs(_sigmoid(w) - _sigmoid(h)) for w, h in pairs)),
    }


def _texts(path: Path) -> dict[str, str]:
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {row["_id"]: row["text"] for row in rows}


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def _digits(value: float) -> float:
    return float(f"{value:.2g}")
