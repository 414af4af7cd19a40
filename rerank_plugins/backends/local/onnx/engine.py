"""The ONNX engine: encoders on a CPU without torch, one pair per run and one thread per core."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import onnxruntime  # type: ignore[import-untyped]  # it ships no types

from rerank_plugins._internal.cpu import usable_cpus
from rerank_plugins._internal.locks import ForkSafeLock, reset_in_forked_child
from rerank_plugins.backends.local.checkpoint import Checkpoint
from rerank_plugins.backends.local.engine import (
    EngineSettings,
    EngineStats,
    Request,
    UnsupportedByEngine,
)
from rerank_plugins.backends.local.labels import Label, label_logit
from rerank_plugins.backends.local.onnx.build.architectures import read_encoder
from rerank_plugins.backends.local.onnx.build.build import build_graph
from rerank_plugins.backends.local.onnx.build.chain_head import read_chain_head
from rerank_plugins.backends.local.onnx.build.embedding_table import EmbeddingTable
from rerank_plugins.backends.local.onnx.build.linear import Precision
from rerank_plugins.backends.local.onnx.build.verify import Sample, verify, with_peaks
from rerank_plugins.backends.local.onnx.build.weights import Array
from rerank_plugins.backends.local.onnx.session import Session
from rerank_plugins.backends.local.out_of_memory import is_out_of_memory
from rerank_plugins.backends.local.process_memory import release_memory, resident_memory
from rerank_plugins.backends.local.tokenizer import Pairs, PairTokenizer, scores_by_request
from rerank_plugins.scores import Scores

__all__ = ["ONNXEngine", "load"]

_TOLERANCES: dict[Precision, float] = {"float32": 1e-3, "int8": 0.5}
"""The largest error of the pooled vector: 8 bits cost 0.02 to 0.2, a wrong graph about 1."""

_EXPORTED = ("model.onnx", "onnx/model.onnx")


def load(checkpoint: Checkpoint, settings: EngineSettings) -> ONNXEngine:
    """Build the graph of a checkpoint, or load one that was exported beside its weights.

    Raises:
        UnsupportedByEngine: the engine lacks the device, the dtype or the architecture.
        ConfigError: the files are broken.
    """
    if settings.device not in {"auto", "cpu"}:
        raise UnsupportedByEngine(
            f"the ONNX engine runs on the processor, not on device {settings.device!r}; "
            'use device="cpu" or engine="torch"'
        )
    if settings.dtype not in {"auto", *_TOLERANCES}:
        raise UnsupportedByEngine(
            f"the ONNX engine has no dtype {settings.dtype!r}, only: auto, "
            f'{", ".join(_TOLERANCES)}; use engine="torch"'
        )
    if settings.attention != "auto":
        raise UnsupportedByEngine(
            "the ONNX engine runs one pair at a time, so it can't use attention="
            f'{settings.attention!r}; use engine="torch"'
        )
    dtype: Precision = "int8" if settings.dtype == "int8" else "float32"
    tokenizer = PairTokenizer.load(checkpoint, cached_tokens=settings.cached_tokens)
    try:
        session, facts = _build_session(checkpoint, dtype)
        name = f"onnx-{dtype}"
    except UnsupportedByEngine as exc:
        session, facts = _load_exported(checkpoint, dtype, exc)
        name = "onnx-exported"
    release_memory()
    threads = settings.threads or usable_cpus()
    return ONNXEngine(session, tokenizer, name, threads, facts, label=checkpoint.label)


def _build_session(checkpoint: Checkpoint, dtype: Precision) -> tuple[Session, dict[str, object]]:
    """Return a session over a graph that we build, verified against the reference."""
    encoder = read_encoder(checkpoint.folder)
    if checkpoint.chain is not None:
        encoder = replace(encoder, head=read_chain_head(checkpoint.chain, checkpoint.folder))
    head = encoder.head
    if head is None:
        raise UnsupportedByEngine(f"{checkpoint.model!r} has no classification head")
    if head.labels != checkpoint.num_labels:
        raise UnsupportedByEngine(
            f"{checkpoint.model!r} has weights for {head.labels} labels, and config.json says "
            f"{checkpoint.num_labels}"
        )
    samples = Sample.draw(encoder, head, longest=checkpoint.max_length)
    if dtype == "int8":
        encoder = with_peaks(encoder, samples)
    graph = build_graph(encoder, dtype=dtype, embeddings="input", max_length=checkpoint.max_length)
    table = EmbeddingTable(encoder.embeddings.words)
    encoder = replace(encoder, layers=())  # so that all weights are not in memory twice
    session = Session(*graph.to_parts(), table=table)
    error = verify(session, encoder, head, samples, tolerance=_TOLERANCES[dtype])
    return session, {"dtype": dtype, "graph": "built", "error_at_load": float(f"{error:.2g}")}


def _load_exported(
    checkpoint: Checkpoint, dtype: Precision, why_not_built: UnsupportedByEngine
) -> tuple[Session, dict[str, object]]:
    """Return a session over the graph that was exported beside the weights."""
    path = next((p for name in _EXPORTED if (p := checkpoint.folder / name).exists()), None)
    if path is None or dtype != "float32" or checkpoint.chain is not None:
        raise why_not_built  # of a chain, only the body is exported
    facts: dict[str, object] = {
        "dtype": "as exported",
        "graph": path.name,
        "why_not_built": str(why_not_built),
    }
    return Session(path), facts


class ONNXEngine:
    """Scores pair by pair: nothing is padded, and the activations fit into the CPU's cache.

    Each worker thread runs one pair at a time, longest first; ONNX Runtime starts no threads of
    its own. Calls share the workers, and each queues few pairs at once, so a small request does
    not wait for a large one.
    """

    def __init__(
        self,
        session: Session,
        tokenizer: PairTokenizer,
        name: str,
        threads: int,
        facts: dict[str, object],
        *,
        label: Label | None = None,
    ) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._name = name
        self._threads = threads
        self._facts = facts
        self._label = label
        self._start_workers()
        reset_in_forked_child(self)
        self._lock = ForkSafeLock()
        self._tokens = 0

    def _start_workers(self) -> None:
        self._workers = ThreadPoolExecutor(self._threads, "rerank-onnx")

    def reset_after_fork(self) -> None:
        """Start workers anew: the threads of the parent don't exist in the child."""
        self._start_workers()

    @property
    def name(self) -> str:
        return self._name

    def logits(self, requests: Sequence[Request]) -> list[Scores]:
        pairs = self._tokenizer.encode(requests)
        with self._lock:
            self._tokens += int(pairs.offsets[-1])
        return scores_by_request(requests, [pairs], self._score(pairs))

    def describe(self) -> dict[str, object]:
        return {
            "engine": "onnx",
            "device": "cpu",
            **self._facts,
            "threads": self._threads,
            **self._tokenizer.describe(),
            "onnxruntime": onnxruntime.__version__,
        }

    def stats(self) -> EngineStats:
        return EngineStats(self._tokens)

    def memory(self) -> dict[str, int]:
        return resident_memory()

    def close(self) -> None:
        self._workers.shutdown()
        del self._session

    def _score(self, pairs: Pairs) -> list[float]:
        logits = [0.0] * len(pairs)
        queued: deque[tuple[int, Future[float]]] = deque()
        for index in np.argsort(-pairs.lengths, kind="stable").tolist():
            if len(queued) >= 2 * self._threads:
                oldest, future = queued.popleft()
                logits[oldest] = future.result()
            queued.append((index, self._submit(*pairs.row(index))))
        for index, future in queued:
            logits[index] = future.result()
        return logits

    def _submit(self, ids: Array, types: Array) -> Future[float]:
        try:
            return self._workers.submit(self._logit, ids, types)
        except RuntimeError as exc:
            if is_out_of_memory(exc):
                raise MemoryError("no memory for one more thread; lower `threads`") from exc
            raise

    def _logit(self, ids: Array, types: Array) -> float:
        logits = self._session.run("logits", ids, types)
        return float(logits.item()) if self._label is None else label_logit(logits[0], self._label)
