"""sentence-transformers as its users call it: the reference for our speed and scores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from rerank_plugins._internal.optional import require
from rerank_plugins.backend import Backend
from rerank_plugins.content import Document, Query, Requests, check_texts
from rerank_plugins.scores import Scores, check_scores

__all__ = ["ReferenceBackend"]


class ReferenceBackend(Backend):
    """Scores with `sentence_transformers.CrossEncoder.predict` and its default settings.

    For comparisons only; to rerank, use `local:MODEL`. The scale is the checkpoint's own.

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

    def score(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        return self.score_many([(query, documents)])[0]

    def score_many(self, requests: Requests) -> list[Scores]:
        checked = [check_texts(query, documents) for query, documents in requests]
        pairs = [(query, document) for query, documents in checked for document in documents]
        predicted = self._encoder.predict(pairs, show_progress_bar=False) if pairs else []
        scores = iter(check_scores(predicted, len(pairs)))
        return [
            Scores((next(scores) for _ in documents), backend=self.name, scale=self.scale)
            for _, documents in checked
        ]

    def close(self) -> None:
        self.__dict__.pop("_encoder", None)
