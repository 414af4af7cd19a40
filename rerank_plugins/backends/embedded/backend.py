"""`EmbeddedBackend`: reranking offline, with the model inside the package."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rerank_plugins._internal.checks import check_integer
from rerank_plugins._internal.cpu import usable_cpus
from rerank_plugins._internal.locks import ForkSafeLock, hold_forks
from rerank_plugins._internal.long_documents import MAX_WINDOWS, LongDocuments, LongDocumentsMode
from rerank_plugins._internal.options import changed_options
from rerank_plugins.backend import Backend, as_scores
from rerank_plugins.backends.deduplicate import deduplicate
from rerank_plugins.backends.document_events import emit_lengths
from rerank_plugins.backends.embedded.files import DIGESTS, FOLDER, VERSION
from rerank_plugins.backends.embedded.lengths import MAX_LENGTH, passage_tokens
from rerank_plugins.backends.local.document_windows import CutLog
from rerank_plugins.backends.local.foreign_errors import load_errors
from rerank_plugins.backends.model_files import ModelFiles
from rerank_plugins.content import Document, Query, check_texts
from rerank_plugins.scores import Scale, Scores

if TYPE_CHECKING:  # imported on first use: it loads numpy and onnxruntime
    from rerank_plugins.backends.embedded.scorer import LateInteractionScorer

__all__ = ["EmbeddedBackend"]

_METHOD = "late-3"
"""How scores are made from the model; raise it when any score changes."""

_log = logging.getLogger(__name__)
_MAX_THREADS = 8


class EmbeddedBackend(Backend):
    """Reranks offline, in about 100 languages, with the small model that the package contains.

    It uses late interaction over multilingual-e5-small in 4 bits: a document's score says how well
    each word of the query is matched, in its context, by some word of the document. Long documents
    are read in windows of 256 tokens, and the best window counts. Documents are embedded without
    the query, and recent ones are cached.

    A start, not the best reranker: `"local:BAAI/bge-reranker-v2-m3"` is one string away.

    Args:
        max_length: the most tokens read of a text; the rest does not count. None: 1,024 of a query,
            and all of a document, up to `max_windows`.
        long_documents: `"best"` reads documents in windows, of which the best makes the score;
            `"truncate"` reads the first `max_length` tokens alone, by default 1,024, and `"error"`
            refuses documents with more.
        best_windows: how many windows make the score: 1 is the best one, more the mean of so many.
        max_windows: the most windows that are read of a document; the rest is left out, and told.
        window_tokens: the most tokens of a window; None: 256. Fewer make shorter passages.
        threads: texts embedded at the same time; None: one per processor, at most 8.
        cached_tokens: document tokens kept for the next request, about 400 bytes each; 0 keeps
            none. Of queries, 16,384 always are.

    Raises:
        ConfigError: an option has an invalid value or type.
    """

    scale: Scale = "probability"

    def __init__(
        self,
        *,
        max_length: int | None = None,
        long_documents: LongDocumentsMode = "best",
        best_windows: int = 1,
        max_windows: int = MAX_WINDOWS,
        window_tokens: int | None = None,
        threads: int | None = None,
        cached_tokens: int = 1 << 17,
    ) -> None:
        check_integer("max_length", max_length, least=1, optional=True)
        check_integer("threads", threads, least=1, optional=True)
        check_integer("cached_tokens", cached_tokens, least=0)
        self._max_length = max_length
        self._long_documents = LongDocuments(
            long_documents=long_documents,
            best_windows=best_windows,
            max_windows=max_windows,
            window_tokens=window_tokens,
        )
        self._threads = threads
        self._cached_tokens = cached_tokens
        is_bound = max_length == passage_tokens(max_length, self._long_documents)
        self._cut_log = CutLog(self._long_documents, max_length=max_length if is_bound else None)
        self._truncated_queries = 0
        self._lock = ForkSafeLock()
        self._scorer: LateInteractionScorer | None = None

    @property
    def kind(self) -> str:
        return "embedded"

    @property
    def document_tokens(self) -> int:  # type: ignore[override]  # follows from the options
        return passage_tokens(self._max_length, self._long_documents)

    @property
    def best_part_counts(self) -> bool:  # type: ignore[override]  # follows from the options
        return self._max_length is None and self._long_documents.best_part_counts

    @property
    def name(self) -> str:
        length = self._max_length or "whole"
        return f"embedded:multilingual-e5-small@{VERSION}/{_METHOD}/{length}{self._window_name}"

    @property
    def _window_name(self) -> str:
        """What makes other scores than the default, as the end of `name`."""
        usual = asdict(LongDocuments())
        changed = {k: v for k, v in asdict(self._long_documents).items() if v != usual[k]}
        return "?" * bool(changed) + "&".join(f"{k}={v}" for k, v in changed.items())

    def score(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        text, texts = check_texts(query, documents)
        if not texts:
            return Scores((), scale=self.scale)
        distinct, positions = deduplicate(texts)
        scores = self._loaded().score(text, distinct)
        emit_lengths([scores])
        self._count_lengths(scores)
        return as_scores(scores, len(distinct), self).take(positions)

    def _count_lengths(self, scores: Scores) -> None:
        reads_windows = self._long_documents.long_documents == "best"
        for at in {*scores.windows, *scores.read}:
            windowed = reads_windows and at in scores.windows
            self._cut_log.count(windowed=windowed, read=scores.read.get(at, 1.0))
        if scores.truncated == scores.read.keys():
            return
        with self._lock:  # all documents are cut, since the query is
            self._truncated_queries += 1
            is_first = self._truncated_queries == 1
        if is_first:
            _log.warning(
                "a query was cut to the %d tokens that the model reads of one; shorten queries "
                "(logged once; `describe()` counts)",
                self._max_length or MAX_LENGTH,
            )

    def describe(self) -> dict[str, object]:
        return {
            **super().describe(),
            "model": "intfloat/multilingual-e5-small, 4 bits, MIT",
            "device": "cpu",
            "engine": "onnxruntime",
            "calibration": "fitted on judged questions",
            "languages": "about 100; measured: English, Chinese",
            "max_length": self._max_length,
            **asdict(self._long_documents),
            "threads": self._workers(),
            "cached_tokens": self._cached_tokens,
            **self._cut_log.describe(),
            "truncated_queries": self._truncated_queries,
        }

    def model_files(self) -> ModelFiles:
        """Return the files of the model, which the package contains."""
        return ModelFiles("embedded", VERSION, {name: FOLDER / name for name in DIGESTS})

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
            **asdict(self._long_documents),
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
                long_documents=self._long_documents,
            )
        scorer = LateInteractionScorer(embedder, best_windows=self._long_documents.best_windows)
        scorer.score("a", ["a"])  # imports what numpy leaves for later, while forks wait
        return scorer
