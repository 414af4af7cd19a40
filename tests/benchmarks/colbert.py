"""Compare a model of ColBERT's shape with sentence-transformers, on documents new and known.

python tests/benchmarks/colbert.py                       # both shapes, two to ten minutes
python tests/benchmarks/colbert.py --model minilm --calls 9

`minilm` is the trained encoder of six layers, `base` has BERT's shape and random weights; behind
them is a seeded projection to 128 numbers. Queries are filled up to 32 tokens, documents have at
most 300.
"""
# ruff: noqa: T201 - a script talks to its terminal

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

sys.path[0] = str(Path(__file__).parents[2])  # the modules are `tests.benchmarks.…`

from rerank_plugins.bench.speed import Speed, compare_speed  # noqa: E402
from rerank_plugins.bench.workload import Shape, Workload  # noqa: E402
from tests.benchmarks.contenders import Contender, open_peer  # noqa: E402
from tests.benchmarks.models import MODELS, write_colbert  # noqa: E402
from tests.benchmarks.peer import Peer  # noqa: E402

SHAPES: Mapping[str, str] = {"tiny": "tiny", "minilm": "minilm", "base": "bge-base"}
REFERENCE = Contender("sentence-transformers", "multi_vector")
_OURS = "local:{model}?local_files_only=true&device=cpu&"
OURS = tuple(
    Contender(f"rerank-plugins, {name}", "backend", {"spec": _OURS + options})
    for name, options in (
        ("onnx", "engine=onnx"),
        ("onnx int8", "engine=onnx&dtype=int8"),
        ("torch", "engine=torch"),
    )
)


class KnownDocuments(Workload):
    """Asks new queries about the same documents."""

    _known: Sequence[list[str]] = ()

    def requests(self, shape: Shape) -> list[tuple[str, list[str]]]:
        """Return requests that differ in their queries only."""
        asked = super().requests(shape)
        self._known = self._known or [texts for _, texts in asked]
        return [(query, texts) for (query, _), texts in zip(asked, self._known, strict=True)]


def main(arguments: list[str] | None = None) -> int:
    """Print a table of times per query, and of ratios to sentence-transformers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=tuple(SHAPES), help="one shape (default: all but tiny)")
    parser.add_argument("--documents", type=int, default=100, help="of each query")
    parser.add_argument("--calls", type=int, default=5, help="measured calls of each")
    chosen = parser.parse_args(arguments)
    names = [chosen.model] if chosen.model else [name for name in SHAPES if name != "tiny"]
    print("| model | documents | scorer | ms per query | ratio | processor ms | ratio |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            model = write_colbert(
                MODELS[SHAPES[name]].build(Path(folder)), Path(folder) / f"{name}-colbert"
            )
            _compare(name, model, Shape(1, chosen.documents), chosen.calls)
    return 0


def _compare(name: str, model: Path, shape: Shape, calls: int) -> None:
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile("w+"))
        peers: dict[str, Peer] = {
            each.name: stack.enter_context(open_peer(each, model, None, log))
            for each in (REFERENCE, *OURS)
        }
        for kind, workload in (("new", Workload()), ("known", KnownDocuments())):
            clocks = {each: lambda p=peer: p.processor_seconds for each, peer in peers.items()}
            speeds = compare_speed(
                peers, shape, workload, calls=calls, warm_up=1, processor_clocks=clocks
            )
            for scorer in peers:
                print(f"| {name} | {kind} | {scorer} | {_times(speeds, scorer)} |", flush=True)
        request = Workload(seed=1).requests(shape)
        (expected,) = peers[REFERENCE.name].score_many(request)
        for ours in OURS:
            (scores,) = peers[ours.name].score_many(request)
            largest = max(abs(one - other) for one, other in zip(scores, expected, strict=True))
            print(f"{ours.name}: scores differ by {largest:.1e} of {max(expected):.0f}")


def _times(speeds: Mapping[str, Speed], scorer: str) -> str:
    reference, own = speeds[REFERENCE.name], speeds[scorer]
    columns = []
    for theirs, ours in (
        (reference.seconds, own.seconds),
        (reference.cpu_seconds, own.cpu_seconds),
    ):
        ratio = median(one / other for one, other in zip(theirs, ours, strict=True))
        columns += [f"{1000 * median(ours):.0f}", f"{ratio:.1f}×"]
    return " | ".join(columns)


if __name__ == "__main__":
    sys.exit(main())
