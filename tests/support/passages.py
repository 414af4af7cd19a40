"""A backend that finds the sentence with the answer."""

from __future__ import annotations

from collections.abc import Sequence

from rerank_plugins import Backend, Passage, Scale, Scores
from rerank_plugins.content import Document, Query

__all__ = ["ANSWER", "LONG", "PassageBackend"]

ANSWER = "The panda eats bamboo."
LONG = f"Nothing is here. {ANSWER} Nor here."


class PassageBackend(Backend):
    """Gives 1 to a document with the answer, whose sentence is its best passage."""

    name = "passages"
    scale: Scale = "probability"

    def score(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        places = [str(document).find(ANSWER) for document in documents]
        found = {at: Passage(start, start + len(ANSWER)) for at, start in enumerate(places)}
        passages = {at: span for at, span in found.items() if span.start >= 0}
        return Scores(
            [float(at in passages) for at in found],
            passages=passages,
            windows=dict.fromkeys(passages, 3),
        )
