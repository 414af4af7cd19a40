"""A retriever that reranks what another retriever finds."""

from __future__ import annotations

from typing import Any, Never

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever, RetrieverLike
from langchain_core.runnables import Runnable, RunnableConfig

from rerank_plugins._adapter import (
    DEFAULT_TOP_N,
    OTHER_CUTS,
    SELECTION,
    Keep,
    OnError,
    refuse_unknown,
)
from rerank_plugins._internal.rank_fields import RankFields
from rerank_plugins.errors import ConfigError
from rerank_plugins.langchain.compressor import RerankCompressor
from rerank_plugins.langchain.reranker import MODEL_CONFIG, Reranker
from rerank_plugins.ranking import Selection, TokenCount
from rerank_plugins.spec import BackendSpec

__all__ = ["RerankRetriever"]


class RerankRetriever(Reranker, BaseRetriever):
    """Retrieves with another retriever and reranks what it finds.

    In place of `ContextualCompressionRetriever`, without `langchain-classic`. Settings for one
    call are given with the call; other keywords go to the inner retriever, except for what other
    rerankers call `top_n` and `min_score`, such as `top_k`, which is refused:

        retriever = RerankRetriever(store.as_retriever(search_kwargs={"k": 50}))
        retriever.invoke("what is a panda?", top_n=1)

    Documents come back as from `RerankCompressor`, which appears as a run of its own in traces.

    Args:
        retriever: any LangChain retriever, or a `Runnable` from a query to documents. Let it
            find several times `top_n` documents.
        backend: as for `RerankCompressor`.
        top_n: as for `RerankCompressor`.
        min_score: as for `RerankCompressor`.
        min_gap: as for `RerankCompressor`.
        max_tokens: as for `RerankCompressor`.
        count_tokens: as for `RerankCompressor`.
        distinct: as for `RerankCompressor`.
        rank_fields: as for `RerankCompressor`.
        instruction: as for `RerankCompressor`.
        on_error: as for `RerankCompressor`.
        keep: as for `RerankCompressor`.
        name: what to call the run in traces; by default the name of the class.
        tags: tags of the run.
        metadata: metadata of the run.

    Raises:
        ConfigError: a setting is unknown or wrong.
        MissingDependencyError: the backend needs an extra that is not installed.
    """

    retriever: RetrieverLike
    """What finds the documents."""

    model_config = MODEL_CONFIG

    def __init__(
        self,
        retriever: RetrieverLike | None = None,  # required, but misnamed ones are answered first
        *,
        backend: BackendSpec = None,
        top_n: int | None = DEFAULT_TOP_N,
        min_score: float | None = None,
        min_gap: float | None = None,
        max_tokens: int | None = None,
        count_tokens: TokenCount = None,
        distinct: float | None = None,
        rank_fields: RankFields = None,
        instruction: str | None = None,
        on_error: OnError = "raise",
        keep: Keep = "document",
        name: str | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **unknown: Never,  # only to answer misnamed settings with the right name
    ) -> None:
        refuse_unknown(unknown, valid=type(self).model_fields, where=type(self).__name__)
        if not isinstance(retriever, Runnable):
            raise ConfigError(
                f"`retriever` must be a LangChain retriever, not `{type(retriever).__name__}`; "
                "of a vector store pass store.as_retriever()"
            )
        super().__init__(
            backend=backend,
            selection=Selection(
                top_n=top_n,
                min_score=min_score,
                min_gap=min_gap,
                max_tokens=max_tokens,
                count_tokens=count_tokens,
                distinct=distinct,
            ),
            rank_fields=rank_fields,
            instruction=instruction,
            on_error=on_error,
            keep=keep,
            unknown=unknown,
            retriever=retriever,
            name=name,
            tags=tags,
            metadata=metadata,
        )

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        compressor = self._compressor(kwargs)
        child: RunnableConfig = {"callbacks": run_manager.get_child()}
        candidates = self.retriever.invoke(query, child, **kwargs)
        return compressor.invoke({"documents": candidates, "query": query}, child)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        compressor = self._compressor(kwargs)
        child: RunnableConfig = {"callbacks": run_manager.get_child()}
        candidates = await self.retriever.ainvoke(query, child, **kwargs)
        return await compressor.ainvoke({"documents": candidates, "query": query}, child)

    def _compressor(self, settings: dict[str, Any]) -> RerankCompressor:
        """Take the reranker's settings for this call out of `settings`, and build it."""
        misnamed = sorted(OTHER_CUTS & settings.keys())
        refuse_unknown(misnamed, valid=(), where=f"{type(self).__name__}.invoke")
        return RerankCompressor(
            backend=self.backend,
            **{name: settings.pop(name, getattr(self, name)) for name in SELECTION},
            instruction=settings.pop("instruction", self.instruction),
            on_error=self.on_error,
            rank_fields=self.rank_fields,
            keep=self.keep,
        )
