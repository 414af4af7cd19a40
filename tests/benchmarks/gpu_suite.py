"""Compare the torch engine on one GPU with sentence-transformers, in less than ten minutes.

    python tests/benchmarks/gpu.py --out results.json --table table.md
    python tests/benchmarks/gpu.py --tiny --device cpu     # runs anywhere and says nothing of speed

Weights are random in the shapes of published rerankers; texts are random real words in the
token lengths of SQuAD; no hub, no network. Every stage rewrites the results; a stage that fails or
has no time left is recorded as not run, and the others go on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from sentence_transformers import CrossEncoder

from rerank_plugins.backends.local.backend import LocalBackend
from rerank_plugins.bench.workload import Shape, Workload
from tests.benchmarks.agreement import kendall_tau
from tests.benchmarks.models import MODELS, _write_tokenizer

Requests = list[tuple[str, list[str]]]

_TEMPLATE = (
    '{% for m in messages %}{{ m["role"] }} : {{ m["content"] }} {% endfor %}[SEP] answer : '
)
_LIMIT = 0.080  # seconds: what 120 queries/s are usually promised in


@dataclass(frozen=True)
class Decoder:
    """The shape of a language model that answers yes or no; see `benchmarks.models.Model`."""

    name: str
    title: str
    layers: int
    width: int
    inner: int
    heads: int
    key_heads: int
    head_width: int

    def flops(self, tokens: int) -> float:
        """Two per weight and token, and half of all pairs of tokens, for it looks back only."""
        attention = self.heads * self.head_width
        weights = self.width * (2 * attention + 2 * self.key_heads * self.head_width)
        weights = self.layers * (weights + 3 * self.width * self.inner)
        return 2 * weights * tokens + 2 * self.layers * attention * tokens**2

    def build(self, folder: Path) -> Path:
        """Write the checkpoint to `folder/NAME`, and return that."""
        target = folder / self.name
        torch.manual_seed(0)
        shape = transformers.Qwen3Config(
            vocab_size=30522,
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads,
            head_dim=self.head_width,
            intermediate_size=self.inner,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            pad_token_id=0,
        )
        transformers.Qwen3ForCausalLM(shape).to(torch.bfloat16).save_pretrained(target)
        _write_tokenizer(target, token_types=False)
        (target / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")
        return target


SHAPES: dict[str, Any] = {
    **MODELS,
    "qwen3-0.6b": Decoder("qwen3-0.6b", "Qwen3-Reranker-0.6B", 28, 1024, 3072, 16, 8, 128),
    "tiny-qwen3": Decoder("tiny-qwen3", "a tiny Qwen3", 2, 64, 128, 4, 2, 16),
}
FULL = ("minilm", "bge-base", "bge-large", "qwen3-0.6b")
TINY = ("tiny", "tiny-qwen3")


class Run:
    """The results so far, the time left, and the file for the results."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.device = torch.device(arguments.device)
        self.tiny: bool = arguments.tiny
        self.results: dict[str, Any] = {"machine": {}, "rows": [], "not_run": []}
        self._out: Path | None = arguments.out
        self._end = time.monotonic() + arguments.budget

    def stage(self, name: str, seconds: float, work: Callable[[], None]) -> None:
        """Run a stage if there is time for it; record a failure, and go on."""
        if time.monotonic() + seconds > self._end:
            self.results["not_run"].append([name, "no time was left"])
            return
        try:
            work()
        except Exception as exc:  # noqa: BLE001 - one stage must not cost the others
            traceback.print_exc(limit=3)
            self.results["not_run"].append([name, f"{type(exc).__name__}: {exc}"[:300]])
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self._out is not None:
            self._out.write_text(json.dumps(self.results, indent=1), encoding="utf-8")

    def row(self, model: str, scorer: str, **figures: float) -> None:
        """Record figures of one scorer, in its existing row or in a new one."""
        rows = self.results["rows"]
        for existing in rows:
            if (existing["model"], existing["scorer"]) == (model, scorer):
                existing.update(figures)
                break
        else:
            rows.append({"model": model, "scorer": scorer, **figures})
        shown = {name: float(f"{value:.4g}") for name, value in figures.items()}
        sys.stdout.write(f"{model}, {scorer}: {shown}\n")
        sys.stdout.flush()

    def wait(self) -> None:
        """Wait until the device has finished all its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def measure_machine(run: Run) -> None:
    """Record the device, the releases and the peak of bfloat16 products."""
    facts = run.results["machine"]
    facts.update(torch=torch.__version__, transformers=transformers.__version__)
    cuda = run.device.type == "cuda"
    facts["device"] = torch.cuda.get_device_name(run.device) if cuda else str(run.device)
    size, times = (8192, 20) if cuda else (256, 2)
    left = torch.randn(size, size, device=run.device, dtype=torch.bfloat16)
    for _ in range(3):
        left @ left
    run.wait()
    start = time.perf_counter()
    for _ in range(times):
        left @ left
    run.wait()
    facts["peak"] = 2 * size**3 * times / (time.perf_counter() - start)


def measure_model(run: Run, name: str, folder: Path) -> None:
    """Measure all scorers of one model shape, and how much they differ from float32."""
    shape = SHAPES[name]
    decoder = isinstance(shape, Decoder)
    checkpoint = str(shape.build(folder))
    work = Workload("natural")
    bulk = work.requests(Shape(2, 3) if run.tiny else Shape(64, 50))
    small = [work.requests(Shape(1, 4 if run.tiny else 20)) for _ in range(3 if run.tiny else 60)]
    words = {"true_token": "yes", "false_token": "no"} if decoder else {}

    def ours(**options: Any) -> LocalBackend:
        return LocalBackend(
            checkpoint,
            engine="torch",
            device=str(run.device),
            max_length=512,
            scale="logit",
            cached_tokens=0,
            **words,
            **options,
        )

    exact: list[float] = []

    def reference(dtype: str) -> None:
        model = CrossEncoder(
            checkpoint,
            device=str(run.device),
            local_files_only=True,
            activation_fn=torch.nn.Identity(),
            model_kwargs={"torch_dtype": dtype},
        )
        model.max_seq_length = 512

        def score(requests: Requests) -> list[float]:
            pairs = [(query, text) for query, texts in requests for text in texts]
            return [float(score) for score in model.predict(pairs, batch_size=32)]

        scores = measure(
            run, shape, f"sentence-transformers {dtype}", score, bulk=bulk, small=small
        )
        if dtype == "float32":
            exact.extend(scores)
        agree(run, name, f"sentence-transformers {dtype}", exact, scores)

    def engine(title: str, **options: Any) -> None:
        with ours(**options) as backend:

            def score(requests: Requests) -> list[float]:
                return [value for row in backend.score_many(requests) for value in row]

            scores = measure(run, shape, title, score, bulk=bulk, small=small)
            agree(run, name, title, exact, scores)
            run.results.setdefault("describe", {})[f"{name}, {title}"] = backend.describe()
            rate = queries_within(backend, small[0], _LIMIT, max_callers=4 if run.tiny else 256)
            run.row(name, title, queries_in_80_ms=rate)

    run.stage(f"{name} reference float32", 30, lambda: reference("float32"))
    run.stage(f"{name} reference bfloat16", 15, lambda: reference("bfloat16"))
    run.stage(f"{name} padded", 10, lambda: engine("padded", attention="padded"))
    run.stage(f"{name} packed", 10, lambda: engine("packed", attention="packed"))
    run.stage(f"{name} float32", 15, lambda: engine("packed float32", dtype="float32"))
    if run.device.type == "cuda":
        run.stage(f"{name} tf32", 10, lambda: engine("packed tf32", dtype="tf32"))
        run.stage(f"{name} graphs", 15, lambda: engine("packed, graphs", cuda_graphs=True))
        run.stage(f"{name} compile", 60, lambda: engine("packed, compiled", compile=True))
        run.stage(
            f"{name} memory",
            15,
            lambda: engine("packed, 20% of the memory", gpu_memory_fraction=0.2),
        )


def measure(
    run: Run,
    shape: Any,
    title: str,
    score: Callable[[Requests], list[float]],
    *,
    bulk: Requests,
    small: Sequence[Requests],
) -> list[float]:
    """Record pairs per second, share of the peak on useful tokens, and the time of small calls."""
    score(bulk[:2])
    seconds = []
    for _ in range(2):
        run.wait()
        start = time.perf_counter()
        scores = score(bulk)
        seconds.append(time.perf_counter() - start)
    # Words are tokens here; 3 more stand around them, or 8 in a template.
    around = 8 if isinstance(shape, Decoder) else 3
    work = sum(
        shape.flops(min(len(query.split()) + len(text.split()) + around, 512))
        for query, texts in bulk
        for text in texts
    )
    calls = []
    for requests in small:
        start = time.perf_counter()
        score(requests)
        calls.append(time.perf_counter() - start)
    calls.sort()
    peak = run.results["machine"].get("peak")
    run.row(
        shape.name,
        title,
        pairs_per_second=len(scores) / min(seconds),
        p50_ms=1e3 * statistics.median(calls),
        p99_ms=1e3 * calls[int(len(calls) * 0.99)],
        **({"share_of_peak": work / min(seconds) / peak} if peak else {}),
    )
    return scores


def agree(
    run: Run, model: str, title: str, expected: Sequence[float], scores: Sequence[float]
) -> None:
    """Record Kendall's τ, and the largest difference in standard deviations of the scores."""
    if not expected:
        return
    largest = max(abs(a - b) for a, b in zip(expected, scores, strict=True))
    run.row(
        model,
        title,
        largest_difference=largest / statistics.pstdev(expected),
        kendall_tau=kendall_tau(expected[:200], scores[:200]),
    )


def queries_within(
    backend: LocalBackend, requests: Requests, limit: float, *, max_callers: int
) -> float:
    """Return the highest rate of queries per second at which 95 % end within the limit.

    Each caller sends one query after another; their number doubles until the limit is passed.
    """
    query, texts = requests[0]

    async def ask(callers: int, each: int) -> tuple[float, float]:
        times: list[float] = []

        async def caller() -> None:
            for _ in range(each):
                start = time.perf_counter()
                await backend.ascore(query, texts)
                times.append(time.perf_counter() - start)

        start = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        took = time.perf_counter() - start
        times.sort()
        return len(times) / took, times[int(len(times) * 0.95)]

    best, callers = 0.0, 1
    while callers <= max_callers:
        rate, slow = asyncio.run(ask(callers, max(2, min(20, max_callers // callers))))
        if slow > limit:
            break
        best, callers = max(best, rate), callers * 2
    return best


_COLUMNS = {
    "pairs_per_second": ("pairs/s", "{:,.0f}"),
    "share_of_peak": ("share of peak", "{:.0%}"),
    "p50_ms": ("1×20 p50, ms", "{:.2f}"),
    "p99_ms": ("1×20 p99, ms", "{:.2f}"),
    "queries_in_80_ms": ("queries/s in 80 ms", "{:,.0f}"),
    "largest_difference": ("largest difference, σ", "{:.4f}"),
    "kendall_tau": ("Kendall τ", "{:.4f}"),
}


def table(results: dict[str, Any]) -> str:
    """Return the results as a page of Markdown."""
    machine = results["machine"]
    lines = [
        "{device}, torch {torch}, transformers {transformers}".format(**machine),
        f"bfloat16 products peak at {machine.get('peak', 0) / 1e12:.0f} TFLOP/s",
        "",
        f"| model | scorer | {' | '.join(head for head, _ in _COLUMNS.values())} |",
        f"|---|---|{'---|' * len(_COLUMNS)}",
    ]
    for row in results["rows"]:
        cells = [
            form.format(row[name]) if name in row else "" for name, (_, form) in _COLUMNS.items()
        ]
        lines.append(f"| {row['model']} | {row['scorer']} | {' | '.join(cells)} |")
    lines += [f"\nNot run: {name}: {reason}" for name, reason in results["not_run"]]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write results and table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--budget", type=float, default=540, help="seconds for everything")
    parser.add_argument("--models", nargs="+", choices=SHAPES, help="the shapes to measure")
    parser.add_argument("--out", type=Path, help="where results go, as JSON")
    parser.add_argument("--table", type=Path, help="where the table goes, as Markdown")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to see that it runs")
    options = parser.parse_args(arguments)
    run = Run(options)
    run.stage("machine", 5, lambda: measure_machine(run))
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        for name in options.models or (TINY if options.tiny else FULL):
            measure_model(run, name, Path(folder))
    page = table(run.results)
    sys.stdout.write(page)
    if options.table is not None:
        options.table.write_text(page, encoding="utf-8")
    return 0
