"""The ONNX engine: encoders on a CPU without torch, one pair per run and one thread per core."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]  # it ships no types

from rerank_plugins._internal.cpu import usable_cpus
from rerank_plugins._internal.locks import ForkSafeLock, reset_in_forked_child
from rerank_plugins.backends.local.bi_encoder_engine import BiEncoderEngine
from rerank_plugins.backends.local.checkpoint import Checkpoint
from rerank_plugins.backends.local.engine import (
    DType,
    Engine,
    EngineSettings,
    EngineStats,
    Request,
    UnsupportedByEngine,
)
from rerank_plugins.backends.local.labels import label_logit
from rerank_plugins.backends.local.onnx.build.architectures import read_encoder
from rerank_plugins.backends.local.onnx.build.build import build_graph
from rerank_plugins.backends.local.onnx.build.chain_head import read_chain_head
from rerank_plugins.backends.local.onnx.build.embedding_table import EmbeddingTable
from rerank_plugins.backends.local.onnx.build.linear import Precision
from rerank_plugins.backends.local.onnx.build.verify import Sample, verify, with_peaks
from rerank_plugins.backends.local.onnx.build.weights import Array
from rerank_plugins.backends.local.onnx.operators import check_graph
from rerank_plugins.backends.local.onnx.session import Session
from rerank_plugins.backends.local.out_of_memory import is_out_of_memory
from rerank_plugins.backends.local.process_memory import release_memory, resident_memory
from rerank_plugins.backends.local.ready_graph import USUAL_GRAPHS
from rerank_plugins.backends.local.text_tokenizer import TextTokenizer
from rerank_plugins.backends.local.tokenizer import Pairs, PairTokenizer, scores_by_request
from rerank_plugins.errors import BackendError
from rerank_plugins.scores import Scores

__all__ = ["ONNXEngine", "ONNXRunner", "load"]

_TOLERANCES: dict[Precision, float] = {"float32": 1e-3, "int8": 0.5}
"""The largest error of the pooled vector: 8 bits cost 0.02 to 0.2, a wrong graph about 1."""


def load(checkpoint: Checkpoint, settings: EngineSettings) -> Engine:
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
    if checkpoint.bi_encoder is None:
        pairs = PairTokenizer.load(
            checkpoint, cached_tokens=settings.cached_tokens, long_documents=settings.windows
        )
        return ONNXEngine(_load_runner(checkpoint, settings, dtype), pairs)
    texts = TextTokenizer.load(checkpoint, long_documents=settings.windows)
    return BiEncoderEngine(
        _load_runner(checkpoint, settings, dtype),
        texts,
        checkpoint.bi_encoder,
        cached_tokens=settings.cached_tokens,
        best_windows=settings.best_windows,
        in_8_bits=dtype == "int8",
        store=settings.vector_store,
    )


def _load_runner(checkpoint: Checkpoint, settings: EngineSettings, dtype: Precision) -> ONNXRunner:
    name = "onnx-exported"
    if checkpoint.graph is not None:
        session, facts = _load_ready(checkpoint, checkpoint.graph, settings.dtype)
    else:
        try:
            session, facts = _build_session(checkpoint, dtype)
            name = f"onnx-{dtype}"
        except UnsupportedByEngine as exc:
            session, facts = _load_exported(checkpoint, dtype, exc)
    release_memory()
    threads = settings.threads or usable_cpus()
    return ONNXRunner(session, name, threads, facts, checkpoint)


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
    masked, longest = False, checkpoint.max_length
    if checkpoint.bi_encoder is not None:
        query = checkpoint.bi_encoder.query
        masked, longest = query.hides_tokens, max(longest, query.longest(longest))
    samples = Sample.draw(encoder, head, longest=longest, masked=masked)
    if dtype == "int8":
        encoder = with_peaks(encoder, samples)
    graph = build_graph(encoder, dtype=dtype, embeddings="input", max_length=longest, masked=masked)
    table = EmbeddingTable(encoder.embeddings.words)
    encoder = replace(encoder, layers=())  # so that all weights are not in memory twice
    session = Session(*graph.to_parts(), table=table)
    error = verify(session, encoder, head, samples, tolerance=_TOLERANCES[dtype])
    return session, {"dtype": dtype, "graph": "built", "error_at_load": float(f"{error:.2g}")}


def _load_ready(
    checkpoint: Checkpoint, graph: Path, dtype: DType
) -> tuple[Session, dict[str, object]]:
    """Return a session over the graph that the user named, or that is all there is."""
    if dtype != "auto":
        raise UnsupportedByEngine(
            f"{checkpoint.model!r} is an ONNX graph, which runs in the dtype that it has; leave "
            "out `dtype`"
        )
    if checkpoint.chain is not None:
        raise UnsupportedByEngine(
            f"{checkpoint.model!r} is a chain of modules, and an ONNX graph has its body only; "
            "take the model in safetensors"
        )
    facts: dict[str, object] = {
        "dtype": "as exported",
        "graph": checkpoint.graph_name,
        "verified": "no: nothing was there to compare the graph with",
    }
    return _open_exported(checkpoint, graph), facts


def _load_exported(
    checkpoint: Checkpoint, dtype: Precision, why_not_built: UnsupportedByEngine
) -> tuple[Session, dict[str, object]]:
    """Return a session over the graph that was exported beside the weights."""
    path = next((p for name in USUAL_GRAPHS if (p := checkpoint.folder / name).exists()), None)
    if path is None or dtype != "float32" or checkpoint.chain is not None:
        raise why_not_built  # of a chain, only the body is exported
    facts: dict[str, object] = {
        "dtype": "as exported",
        "graph": path.name,
        "why_not_built": str(why_not_built),
    }
    return _open_exported(checkpoint, path), facts


def _open_exported(checkpoint: Checkpoint, graph: Path) -> Session:
    """Return a session over a graph of others, which gives one logit for each label of a pair."""
    check_graph(graph)
    session = Session(graph)
    shape = session.run("logits", np.zeros(2, np.int32), np.zeros(2, np.int32)).shape
    if shape != (1, checkpoint.num_labels):
        raise UnsupportedByEngine(
            f"the ONNX graph {str(graph)!r} gives logits of the shape {shape} for one pair, and "
            f"config.json says {checkpoint.num_labels} to a pair; they don't belong together"
        )
    return session


class ONNXRunner:
    """Runs pair by pair: nothing is padded, and the activations fit into the CPU's cache.

    Each worker thread runs one pair at a time, longest first; ONNX Runtime starts no threads of
    its own. Calls share the workers, and each queues few pairs at once, so a small request does
    not wait for a large one.
    """

    def __init__(
        self,
        session: Session,
        name: str,
        threads: int,
        facts: dict[str, object],
        checkpoint: Checkpoint,
    ) -> None:
        self._session = session
        self._name = name
        self._threads = threads
        self._facts = facts
        self._label = checkpoint.label
        self._gives_vectors = checkpoint.bi_encoder is not None
        chain = checkpoint.chain
        self._gives_tokens = chain is not None and chain.pooling == "tokens"
        self._num_labels = checkpoint.num_labels
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

    def run(self, pairs: Pairs) -> Array:
        """Return the logits of the pairs, [n], or vectors, [n, width]."""
        with self._lock:
            self._tokens += int(pairs.offsets[-1])
        results: dict[int, Array] = {}
        queued: deque[tuple[int, Future[Array]]] = deque()
        for index in np.argsort(-pairs.lengths, kind="stable").tolist():
            if len(queued) >= 2 * self._threads:
                oldest, future = queued.popleft()
                results[oldest] = future.result()
            queued.append((index, self._submit(pairs, index)))
        for index, future in queued:
            results[index] = future.result()
        return np.concatenate([results[index] for index in range(len(pairs))] or [np.zeros(0)])

    def describe(self) -> dict[str, object]:
        return {
            "engine": "onnx",
            "device": "cpu",
            **self._facts,
            "threads": self._threads,
            "onnxruntime": onnxruntime.__version__,
        }

    def stats(self) -> EngineStats:
        return EngineStats(self._tokens)

    def memory(self) -> dict[str, int]:
        return resident_memory()

    def close(self) -> None:
        self._workers.shutdown()
        del self._session
        release_memory()

    def _submit(self, pairs: Pairs, index: int) -> Future[Array]:
        try:
            return self._workers.submit(self._row, pairs, index)
        except RuntimeError as exc:
            if is_out_of_memory(exc):
                raise MemoryError("no memory for one more thread; lower `threads`") from exc
            raise

    def _row(self, pairs: Pairs, index: int) -> Array:
        """Return the logit of a pair, [1], or its vectors."""
        attended = None if pairs.attended is None else int(pairs.attended[index])
        logits = self._session.run("logits", *pairs.row(index), attended)
        if self._gives_tokens and pairs.compared is not None:
            logits = logits[pairs.compared[pairs.offsets[index] : pairs.offsets[index + 1]]]
        if self._gives_vectors:
            return logits
        if logits.shape != (1, self._num_labels):
            raise BackendError(
                f"the graph gives logits of the shape {logits.shape} for one pair, and config.json "
                f"says that there are {self._num_labels} labels; correct it, or export the model "
                "again"
            )
        return logits[0] if self._label is None else np.array([label_logit(logits[0], self._label)])


class ONNXEngine:
    """Scores pairs; the calling thread tokenises."""

    def __init__(self, runner: ONNXRunner, tokenizer: PairTokenizer) -> None:
        self._runner = runner
        self._tokenizer = tokenizer

    @property
    def name(self) -> str:
        return self._runner.name

    def logits(self, requests: Sequence[Request]) -> list[Scores]:
        pairs = self._tokenizer.encode(requests)
        return scores_by_request(requests, [pairs], self._runner.run(pairs).tolist())

    def describe(self) -> dict[str, object]:
        return {**self._runner.describe(), **self._tokenizer.describe()}

    def stats(self) -> EngineStats:
        return self._runner.stats()

    def memory(self) -> dict[str, int]:
        return self._runner.memory()

    def close(self) -> None:
        self._runner.close()
