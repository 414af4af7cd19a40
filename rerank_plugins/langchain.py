"""LangChain: a document compressor and a retriever that rerank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Never, NotRequired, Self, cast

from rerank_plugins._optional import require
from rerank_plugins._outcome import (
    OnError,
    Outcome,
    check_on_error,
    mark,
    outcome_of,
)
from rerank_plugins._settings import (
    DEFAULT_TOP_N,
    OTHER_CUTS,
    RETRIEVER_RANK,
    RETRIEVER_SCORE,
    check_settings,
    refuse_unknown,
)
from rerank_plugins.backend import Backend
from rerank_plugins.errors import ConfigError, UnsupportedInputError
from rerank_plugins.spec import BackendSpec, load_backend

try:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForRetrieverRun,
        CallbackManagerForRetrieverRun,
        Callbacks,
    )
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.load.serializable import (
        Serializable,
        SerializedConstructor,
        SerializedNotImplemented,
    )
    from langchain_core.retrievers import BaseRetriever, RetrieverLike
    from langchain_core.runnables import (
        Runnable,
        RunnableConfig,
        RunnableSerializable,
        ensure_config,
    )
    from pydantic import ConfigDict, InstanceOf, field_serializer
    from typing_extensions import TypedDict  # pydantic refuses typing's before Python 3.12
except ModuleNotFoundError:
    require("langchain_core", extra="langchain")
    raise

__all__ = ["RELEVANCE_SCORE", "RerankCompressor", "RerankInput", "RerankRetriever"]

RELEVANCE_SCORE = "relevance_score"
"""Metadata key: the score the reranker gave the document, on the scale of its backend."""

_MODEL_CONFIG = ConfigDict(
    arbitrary_types_allowed=True,
    extra="forbid",
    hide_input_in_errors=True,  # a rejected setting may be a key
    validate_assignment=True,
)


class RerankInput(TypedDict):
    """What `RerankCompressor.invoke` takes; the last two override the compressor's own."""

    documents: Sequence[Document]
    query: str
    top_n: NotRequired[int | None]
    min_score: NotRequired[float | None]


class _Reranker(Serializable):
    """The settings of both classes, and how they are written down."""

    backend: InstanceOf[Backend]
    """What scores the documents."""
    top_n: int | None = DEFAULT_TOP_N
    """How many documents to keep at most; None keeps all, 0 none."""
    min_score: float | None = None
    """The lowest score to keep, on the scale of the backend; None keeps all."""
    on_error: OnError = "raise"
    """Whether a failure of the backend is raised, or leaves the documents in their order."""

    def __init__(
        self,
        *,
        backend: BackendSpec,
        top_n: int | None,
        min_score: float | None,
        on_error: OnError,
        unknown: Iterable[str],
        **others: Any,
    ) -> None:
        """Check the settings before pydantic does: its errors are not ours, and show values."""
        refuse_unknown(unknown, valid=type(self).model_fields, where=type(self).__name__)
        scorer = load_backend(backend)
        check_settings(scorer, top_n=top_n, min_score=min_score)
        check_on_error(on_error)
        super().__init__(
            backend=scorer, top_n=top_n, min_score=min_score, on_error=on_error, **others
        )

    @field_serializer("backend", when_used="json")
    def _as_spec(self, backend: Backend) -> dict[str, object]:
        return backend.to_spec()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        # A copy shares the backend, so that no model is loaded twice.
        return self.model_copy()

    @classmethod
    def is_lc_serializable(cls) -> bool:
        return True

    @property
    def lc_attributes(self) -> dict[str, Any]:
        return {"backend": self.backend.to_spec()}

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        try:
            return super().to_json()
        except ConfigError:  # the backend can't be written as a spec; tracers dump what they see
            return self.to_json_not_implemented()


class RerankCompressor(
    _Reranker, BaseDocumentCompressor, RunnableSerializable[RerankInput, list[Document]]
):
    """Orders documents by their relevance to a query and keeps the best.

    It goes wherever LangChain takes a `BaseDocumentCompressor`, and it is a `Runnable`, so it
    also stands in a chain:

        {"documents": retriever, "query": RunnablePassthrough()} | RerankCompressor(top_n=5)

    Documents come back as copies, best first, with their id, class and metadata; those given
    are not changed, and equal scores keep their order. The copies' metadata gains

    - `relevance_score`: the new score, a float on the scale of the backend;
    - `retriever_rank`: the document's place before reranking, from 1;
    - `retriever_score`: the `relevance_score` it came with, if it came with one;
    - `rerank_status`: `"scored:NAME"`, only where a fallback chain chose who scored, or
      `"fallback:ERROR"`, where nobody did.

    The retriever's two are written by the first reranker only, so that later ones keep what the
    retriever said. Nothing else is touched: a `score` stays where it is.

    Each call is one run in the traces, with the documents before and after; its metadata names
    the backend (`rerank_backend`) and the scale of the scores (`rerank_scale`).

    Args:
        backend: a spec string, a mapping, a path or a `Backend`, as `load_backend()` takes
            them; None asks the environment, then takes the model in this package. Nothing is
            loaded before the first call.
        top_n: how many documents to keep at most; None keeps all, 0 none.
        min_score: the lowest score to keep; needs a backend that says what its scores mean.
        on_error: `"original_order"` returns the first `top_n` documents as they came, without a
            `relevance_score` and whatever `min_score` says, when the backend is unavailable or
            breaks. Wrong input, a wrong key and other refusals are raised all the same.
        name: what to call the run in traces; by default the name of the class.

    Raises:
        ConfigError: a setting is unknown or wrong.
        MissingDependencyError: the backend needs an extra that is not installed.
    """

    model_config = _MODEL_CONFIG

    def __init__(
        self,
        backend: BackendSpec = None,
        *,
        top_n: int | None = DEFAULT_TOP_N,
        min_score: float | None = None,
        on_error: OnError = "raise",
        name: str | None = None,
        **unknown: Never,  # only to answer misnamed settings with the right name
    ) -> None:
        super().__init__(
            backend=backend,
            top_n=top_n,
            min_score=min_score,
            on_error=on_error,
            unknown=unknown,
            name=name,
        )

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return the best documents, best first.

        Raises:
            UnsupportedInputError: the query or a document can't be scored.
            BackendError: the backend failed; no document is dropped in silence.
        """
        return self.invoke({"documents": documents, "query": query}, {"callbacks": callbacks})

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Like `compress_documents`, without blocking the event loop."""
        request: RerankInput = {"documents": documents, "query": query}
        return await self.ainvoke(request, {"callbacks": callbacks})

    def invoke(
        self,
        input: RerankInput,  # noqa: A002 - the name `Runnable` gives it
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Return the best documents, best first.

        Args:
            input: the documents and the query; may also hold `top_n` and `min_score`.
            config: callbacks and the like, as every `Runnable` takes them.
            kwargs: `top_n` and `min_score` for this call; they win over `input`.

        Raises:
            ConfigError: a setting for this call is unknown or wrong.
            UnsupportedInputError: the query or a document can't be scored.
            BackendError: the backend failed; no document is dropped in silence.
        """
        request = self._request(input, kwargs)
        return self._call_with_config(self._rerank, request, self._traced(config))

    async def ainvoke(
        self,
        input: RerankInput,  # noqa: A002 - the name `Runnable` gives it
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Like `invoke`, without blocking the event loop."""
        request = self._request(input, kwargs)
        return await self._acall_with_config(self._arerank, request, self._traced(config))

    def _request(self, given: RerankInput, settings: Mapping[str, Any]) -> RerankInput:
        """Return the whole request, with the settings that hold for it."""
        if not isinstance(given, Mapping):
            raise UnsupportedInputError(
                "the input must be a mapping {'documents': […], 'query': '…'}, "
                f"not `{type(given).__name__}`"
            )
        request = {"top_n": self.top_n, "min_score": self.min_score, **given, **settings}
        valid = RerankInput.__annotations__
        unknown = [str(name) for name in request if name not in valid]
        refuse_unknown(unknown, valid=valid, where=f"{type(self).__name__}.invoke")
        for name in ("documents", "query"):
            if name not in request:
                raise UnsupportedInputError(
                    f"the input lacks `{name}`; pass {{'documents': […], 'query': '…'}}"
                )
        checked = cast("RerankInput", request)
        _check_documents(checked["documents"])
        check_settings(self.backend, top_n=checked["top_n"], min_score=checked["min_score"])
        return checked

    def _traced(self, config: RunnableConfig | None) -> RunnableConfig:
        config = ensure_config(config)
        # Not its name: that may load the model, here on the event loop.
        facts = {"rerank_backend": repr(self.backend), "rerank_scale": self.backend.scale}
        return {**config, "metadata": {**config["metadata"], **facts}}

    def _rerank(self, request: RerankInput) -> list[Document]:
        texts = [document.page_content for document in request["documents"]]
        with outcome_of(len(texts), on_error=self.on_error) as outcome:
            if texts:
                outcome.scores = self.backend.score(request["query"], texts)
        return _best(request, outcome)

    async def _arerank(self, request: RerankInput) -> list[Document]:
        texts = [document.page_content for document in request["documents"]]
        with outcome_of(len(texts), on_error=self.on_error) as outcome:
            if texts:
                outcome.scores = await self.backend.ascore(request["query"], texts)
        return _best(request, outcome)


class RerankRetriever(_Reranker, BaseRetriever):
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
        on_error: as for `RerankCompressor`.
        name: what to call the run in traces; by default the name of the class.
        tags: tags of the run.
        metadata: metadata of the run.

    Raises:
        ConfigError: a setting is unknown or wrong.
        MissingDependencyError: the backend needs an extra that is not installed.
    """

    retriever: RetrieverLike
    """What finds the documents."""

    model_config = _MODEL_CONFIG

    def __init__(
        self,
        retriever: RetrieverLike | None = None,  # required, but misnamed ones are answered first
        *,
        backend: BackendSpec = None,
        top_n: int | None = DEFAULT_TOP_N,
        min_score: float | None = None,
        on_error: OnError = "raise",
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
            top_n=top_n,
            min_score=min_score,
            on_error=on_error,
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
        found = self.retriever.invoke(query, child, **kwargs)
        return compressor.invoke({"documents": found, "query": query}, child)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        compressor = self._compressor(kwargs)
        child: RunnableConfig = {"callbacks": run_manager.get_child()}
        found = await self.retriever.ainvoke(query, child, **kwargs)
        return await compressor.ainvoke({"documents": found, "query": query}, child)

    def _compressor(self, settings: dict[str, Any]) -> RerankCompressor:
        """Take the reranker's settings for this call out of `settings`, and build it."""
        misnamed = sorted(OTHER_CUTS & settings.keys())
        refuse_unknown(misnamed, valid=(), where=f"{type(self).__name__}.invoke")
        return RerankCompressor(
            backend=self.backend,
            top_n=settings.pop("top_n", self.top_n),
            min_score=settings.pop("min_score", self.min_score),
            on_error=self.on_error,
        )


def _check_documents(documents: object) -> None:
    if isinstance(documents, str | bytes) or not isinstance(documents, Sequence):
        raise UnsupportedInputError(
            f"`documents` must be a list of LangChain documents, not `{type(documents).__name__}`"
        )
    for position, document in enumerate(documents):
        if not isinstance(document, Document):
            raise UnsupportedInputError(
                f"document {position} must be a LangChain `Document`, "
                f"not `{type(document).__name__}`"
            )


def _best(request: RerankInput, outcome: Outcome) -> list[Document]:
    """Return copies of the best documents with what is known about their rank."""
    kept = outcome.kept(top_n=request.get("top_n"), min_score=request.get("min_score"))
    return [
        _with_rank(request["documents"][index], index + 1, score, outcome.status)
        for index, score in kept
    ]


def _with_rank(document: Document, place: int, score: float | None, status: str | None) -> Document:
    """Copy a document with its new score, if there is one, and what the retriever thought."""
    metadata = dict(document.metadata)
    earlier = metadata.pop(RELEVANCE_SCORE, None)
    if RETRIEVER_RANK not in metadata:
        metadata[RETRIEVER_RANK] = place
        if earlier is not None:
            metadata[RETRIEVER_SCORE] = earlier
    if score is not None:
        metadata[RELEVANCE_SCORE] = score
    mark(metadata, status)
    return document.model_copy(update={"metadata": metadata})
