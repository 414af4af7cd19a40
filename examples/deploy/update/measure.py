"""Measure a rerank server on a labelled set: MRR@10, latency, and whether it keeps its promises.

    python measure.py infinity+http://rerank-candidate:8787 labelled.jsonl

A line of the set: `{"query": …, "documents": […], "relevant": [index, …]}`. Prints one JSON object;
exit code 1 says that the server broke a promise.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

from rerank_plugins import Backend, RerankError, load_backend, rank


class PromiseBrokenError(Exception):
    """The server answers, but not as it should."""


def check_promises(backend: Backend) -> None:
    """Ask what every rerank server must get right, whatever its model.

    Raises:
        PromiseBrokenError: it did not.
    """
    query, documents = (
        "what is a panda?",
        ["A bear of China.", "A city.", "", "大熊猫", "A\nfish 🐟"],
    )
    first = backend.score(query, documents)
    if not all(math.isfinite(score) for score in first):
        raise PromiseBrokenError("a score is not finite")
    if not _close(first, backend.score(query, documents)):
        raise PromiseBrokenError("the same request got other scores")
    if not _close(first[::-1], backend.score(query, documents[::-1])):
        raise PromiseBrokenError("a score depends on the order of the documents")
    if not _close(first[:1] * 3, backend.score(query, documents[:1] * 3)):
        raise PromiseBrokenError("equal documents got different scores")


def _close(one: list[float], other: list[float]) -> bool:
    return all(
        math.isclose(a, b, rel_tol=0.01, abs_tol=0.002) for a, b in zip(one, other, strict=True)
    )


def measure(backend: Backend, labelled: Path) -> dict[str, float]:
    """Return MRR@10 over the queries of a file, and the 95th percentile of their times."""
    reciprocal, seconds = [], []
    for line in labelled.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        began = time.perf_counter()
        scores = backend.score(case["query"], case["documents"])
        seconds.append(time.perf_counter() - began)
        places = [
            place
            for place, item in enumerate(rank(scores, top_n=10), start=1)
            if item.index in case["relevant"]
        ]
        reciprocal.append(1 / places[0] if places else 0.0)
    seconds.sort()
    return {
        "queries": len(reciprocal),
        "mrr_at_10": sum(reciprocal) / len(reciprocal),
        "p95_seconds": seconds[math.ceil(0.95 * len(seconds)) - 1],
    }


def main(spec: str, labelled: str) -> int:
    """Print the measurement of a server."""
    with load_backend(spec) as backend:
        try:
            check_promises(backend)
            print(json.dumps(measure(backend, Path(labelled))))
        except (PromiseBrokenError, RerankError) as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
