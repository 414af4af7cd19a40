"""A model of a chain whose long documents are scored in parts."""

from __future__ import annotations

from rerank_plugins.content import CheckedDocuments, Requests
from rerank_plugins.errors import DocumentQuarantined
from rerank_plugins.server.document_parts import IN_PARTS, DocumentParts
from rerank_plugins.wrappers.base import Blocking, Call, Flow, WrapperBackend

__all__ = ["DocumentPartsBackend"]

_USUAL_LENGTH = 512


class DocumentPartsBackend(WrapperBackend):
    """Splits long documents, so that the batches of the backend below wait for no whole one.

    Args:
        wrapped: scores in shared batches; the best part of a document makes its score.
    """

    _parts: DocumentParts | None = None

    @property
    def kind(self) -> str:
        return "parts"

    @property
    def name(self) -> str:
        return f"{self.wrapped.name}{IN_PARTS}"

    def flow(self, requests: Requests) -> Flow:
        if self._parts is None:
            facts = yield Blocking(self.wrapped.describe)  # a model that is loaded knows them
            length = facts.get("max_length") or _USUAL_LENGTH
            self._parts = DocumentParts(length, self.wrapped.document_tokens or length)
        split = [
            self._parts.split([str(document) for document in documents])
            for _, documents in requests
        ]
        try:
            results = yield Call(
                self.wrapped,
                [
                    (query, CheckedDocuments(query, each.texts))
                    for (query, _), each in zip(requests, split, strict=True)
                ],
            )
        except DocumentQuarantined as error:
            if len(split) == 1:
                raise split[0].refusal(error) from error
            raise
        return [each.join(scores) for each, scores in zip(split, results, strict=True)]
