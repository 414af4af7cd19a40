"""sentence-transformers as its users call it: what our speed and scores are held against."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from rerank_plugins._internal.optional import require
from rerank_plugins.backend import Backend, Document, check_scores, check_texts

__all__ = ["ReferenceBackend"]


class ReferenceBackend(Backend):
    """Scores with `sentence_transformers.CrossEncoder.predict` and its default settings.

    For comparisons; `local:MODEL` is the backend to use. The scale is the checkpoint's own.

    Args:
        model: a folder, or the id of a model on the hub.
        device: `"auto"` leaves the choice to sentence-transformers.
    """

    def __init__(self, model: str, *, device: str = "auto") -> None:
        self._model = model
        self._device = None if device == "auto" else device

    @property
    def name(self) -> str:
        return f"sentence-transformers:{self._model}"

    @cached_property
    def _encoder(self) -> Any:
        module = require("sentence_transformers", extra="local")
        return module.CrossEncoder(self._model, device=self._device)

    def score(self, query: str, documents: Sequence[Document]) -> list[float]:
        return self.score_many([(query, documents)])[0]

    def score_many(self, requests: Sequence[tuple[str, Sequence[Document]]]) -> list[list[float]]:
        pairs = [
            (query, text) for query, documents in requests for text in check_texts(query, documents)
        ]
        predicted = self._encoder.predict(pairs, show_progress_bar=False) if pairs else []
        scores = iter(check_scores(predicted, len(pairs)))
        return [[next(scores) for _ in documents] for _, documents in requests]

    def close(self) -> None:
        self.__dict__.pop("_encoder", None)
