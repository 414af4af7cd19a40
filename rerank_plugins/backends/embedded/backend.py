"""`EmbeddedBackend`: reranking offline, with the model inside the package."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rerank_plugins._internal.checks import check_integer
from rerank_plugins._internal.cpu import usable_cpus
from rerank_plugins._internal.locks import ForkSafeLock, hold_forks
from rerank_plugins._internal.options import changed_options
from rerank_plugins.backend import Backend, as_scores
from rerank_plugins.backends.deduplicate import deduplicate
from rerank_plugins.backends.local.foreign_errors import load_errors
from rerank_plugins.backends.model_files import ModelFiles
from rerank_plugins.content import Document, Query, check_texts
from rerank_plugins.scores import Scale, Scores

if TYPE_CHECKING:  # imported on first use: it loads numpy and onnxruntime
    from rerank_plugins.backends.embedded.scorer import LateInteractionScorer

__all__ = ["MODEL_SHA256", "EmbeddedBackend"]

MODEL_SHA256 = "5bee7ff222b23b20b498dd658e64c89f52f4a2e848c52708e186621932dc811f"
"""Digest of `model.onnx`."""

_METHOD = "late-1"
"""How scores are made from the model; raise it when any score changes."""

_MAX_THREADS = 8


class EmbeddedBackend(Backend):
    """Reranks offline with the small English model that the package contains.

    It uses late interaction over all-MiniLM-L6-v2 in 8 bits: a document's score says how well
    each word of the query is matched, in its context, by some word of the document. Scripts other
    than Latin are compared by character n-grams. Documents are embedded without the query, and
    recent ones are cached.

    A start, not the best reranker: `"local:BAAI/bge-reranker-v2-m3"` is one string away.

    Args:
        max_length: the most tokens read of a text; the rest does not count.
        threads: texts embedded at the same time; None: one per processor, at most 8.
        cached_tokens: document tokens kept for the next request, about 400 bytes each; 0
            keeps none.

    Raises:
        ConfigError: an option has an invalid value or type.
    """

    scale: Scale = "probability"

    def __init__(
        self,
        *,
        max_length: int = 256,
        threads: int | None = None,
        cached_tokens: int = 1 << 17,
    ) -> None:
        check_integer("max_length", max_length, least=1)
        check_integer("threads", threads, least=1, optional=True)
        check_integer("cached_tokens", cached_tokens, least=0)
        self._max_length = max_length
        self._threads = threads
        self._cached_tokens = cached_tokens
        self._lock = ForkSafeLock()
        self._scorer: LateInteractionScorer | None = None

    @property
    def kind(self) -> str:
        return "embedded"

    @property
    def name(self) -> str:
        return f"embedded:all-MiniLM-L6-v2@{MODEL_SHA256[:12]}/{_METHOD}/{self._max_length}"

    def score(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        text, texts = check_texts(query, documents)
        if not texts:
            return Scores((), scale=self.scale)
        distinct, positions = deduplicate(texts)
        return as_scores(self._loaded().score(text, distinct), len(distinct), self).take(positions)

    def describe(self) -> dict[str, object]:
        return {
            **super().describe(),
            "model": "sentence-transformers/all-MiniLM-L6-v2, int8, Apache-2.0",
            "device": "cpu",
            "engine": "onnxruntime",
            "languages": "English; others by shared letters",
            "max_length": self._max_length,
            "threads": self._workers(),
            "cached_tokens": self._cached_tokens,
        }

    def model_files(self) -> ModelFiles:
        """Return the files of the model, which the package contains."""
        folder = Path(__file__).parent
        paths = {name: folder / name for name in ("model.onnx", "tokenizer.json")}
        return ModelFiles("embedded", MODEL_SHA256[:12], paths)

    def to_spec(self) -> dict[str, object]:
        return {"kind": "embedded", **changed_options(EmbeddedBackend, self._settings())}

    def close(self) -> None:
        with self._lock:
            self._scorer = None

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), **self._settings()), ()

    def _settings(self) -> dict[str, Any]:
        return {
            "max_length": self._max_length,
            "threads": self._threads,
            "cached_tokens": self._cached_tokens,
        }

    def _workers(self) -> int:
        return self._threads or min(usable_cpus(), _MAX_THREADS)

    def _loaded(self) -> LateInteractionScorer:
        with self._lock:
            if self._scorer is None:
                with hold_forks():
                    self._scorer = self._load()
            return self._scorer

    def _load(self) -> LateInteractionScorer:
        from rerank_plugins.backends.embedded.embedder import TokenEmbedder  # noqa: PLC0415 - heavy
        from rerank_plugins.backends.embedded.scorer import LateInteractionScorer  # noqa: PLC0415

        with load_errors(self.label):
            embedder = TokenEmbedder(
                max_length=self._max_length,
                threads=self._workers(),
                cached_tokens=self._cached_tokens,
            )
        return LateInteractionScorer(embedder)
