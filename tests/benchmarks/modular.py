"""Compare chains of modules and ColBERTs with sentence-transformers, in one run.

python tests/benchmarks/modular.py                        # all shapes but tiny ones, half an hour
python tests/benchmarks/modular.py --model ettin-17m --calls 9

`ettin-17m` and `ettin-150m` have the shapes of the Ettin rerankers of these sizes: ModernBERT, cls
pooling, Dense, LayerNorm and Dense. `colbert-minilm` is the trained encoder of six layers,
`colbert-base` and `colbert-modernbert` have the shapes of BERT-base and ModernBERT-base; behind
them is a projection to 128 numbers, queries are filled up to 32 tokens, and documents have at most
300. All other weights are random.
"""
# ruff: noqa: T201 - a script talks to its terminal

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median

sys.path[0] = str(Path(__file__).parents[2])  # the modules are `tests.benchmarks.…`

from rerank_plugins.bench.speed import Speed, compare_speed  # noqa: E402
from rerank_plugins.bench.workload import Shape, Workload  # noqa: E402
from tests.benchmarks.contenders import Contender, open_peer  # noqa: E402
from tests.benchmarks.machine import describe_machine  # noqa: E402
from tests.benchmarks.models import (  # noqa: E402
    MODELS,
    MODERN_BODIES,
    write_chain,
    write_colbert,
    write_modernbert,
)
from tests.benchmarks.peer import Peer  # noqa: E402

CHAINS: Mapping[str, str] = {"chain-tiny": "tiny", "ettin-17m": "17m", "ettin-150m": "150m"}
COLBERTS: Mapping[str, str] = {
    "colbert-tiny": "tiny",
    "colbert-minilm": "minilm",
    "colbert-base": "bge-base",
    "colbert-modernbert": "150m",
}
NAMES = (*CHAINS, *COLBERTS)
_TINY = {"chain-tiny", "colbert-tiny"}
_OURS = "local:{model}?local_files_only=true&device=cpu&{scale}"
_REFERENCES = {
    name: Contender("sentence-transformers", loader)
    for names, loader in ((CHAINS, "sentence_transformers"), (COLBERTS, "multi_vector"))
    for name in names
}
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
    parser.add_argument("--model", choices=NAMES, help="one shape (default: all but tiny ones)")
    parser.add_argument("--documents", type=int, default=20, help="of each query")
    parser.add_argument("--calls", type=int, default=5, help="measured calls of each")
    chosen = parser.parse_args(arguments)
    names = [chosen.model] if chosen.model else [name for name in NAMES if name not in _TINY]
    machine = describe_machine()
    flags = " ".join(map(str, machine["flags"]))
    print(f"{machine['processor']}, {machine['cores']} cores, {flags}; load {machine['load']}\n")
    print("| model | documents | scorer | ms per query | ratio | processor ms | ratio |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            model = _write(name, Path(folder))
            _compare(name, model, Shape(1, chosen.documents), chosen.calls)
    return 0


def _write(name: str, folder: Path) -> Path:
    shape = {**CHAINS, **COLBERTS}[name]
    if name in CHAINS:
        return write_chain(write_modernbert(shape, folder), folder / name)
    if shape in MODERN_BODIES and name not in _TINY:
        return write_colbert(write_modernbert(shape, folder), folder / name)
    return write_colbert(MODELS[shape].build(folder), folder / name)


def _compare(name: str, model: Path, shape: Shape, calls: int) -> None:
    reference = _REFERENCES[name]
    workloads: dict[str, Workload] = {"new": Workload()}
    if name in COLBERTS:
        workloads["known"] = KnownDocuments()
    scale = "scale=logit&" if name in CHAINS else ""
    ours = [
        replace(each, options={"spec": str(each.options["spec"]).replace("{scale}", scale)})
        for each in OURS
    ]
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile("w+"))
        peers: dict[str, Peer] = {
            each.name: stack.enter_context(open_peer(each, model, None, log))
            for each in (reference, *ours)
        }
        for kind, workload in workloads.items():
            clocks = {each: lambda p=peer: p.processor_seconds for each, peer in peers.items()}
            speeds = compare_speed(
                peers, shape, workload, calls=calls, warm_up=1, processor_clocks=clocks
            )
            for scorer in peers:
                times = _times(speeds[reference.name], speeds[scorer])
                print(f"| {name} | {kind} | {scorer} | {times} |", flush=True)
        request = Workload(seed=1).requests(shape)
        (expected,) = peers[reference.name].score_many(request)
        for each in ours:
            (scores,) = peers[each.name].score_many(request)
            largest = max(abs(one - other) for one, other in zip(scores, expected, strict=True))
            print(f"{each.name}: scores differ by {largest:.1e} of {max(map(abs, expected)):.2g}")


def _times(reference: Speed, own: Speed) -> str:
    """Return the columns: the median of the calls, and that of their ratios with the extremes."""
    columns = []
    for theirs, ours in (
        (reference.seconds, own.seconds),
        (reference.cpu_seconds, own.cpu_seconds),
    ):
        ratios = sorted(one / other for one, other in zip(theirs, ours, strict=True))
        spread = f"{median(ratios):.1f}× ({ratios[0]:.1f}–{ratios[-1]:.1f})"
        columns += [f"{1000 * median(ours):.0f}", spread]
    return " | ".join(columns)


if __name__ == "__main__":
    sys.exit(main())
