"""A document compressor that reranks, and that is a `Runnable`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Never, NotRequired, cast

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.runnables import RunnableConfig, RunnableSerializable, ensure_config
from typing_extensions import TypedDict  # pydantic refuses typing's before Python 3.12

from rerank_plugins._adapter import (
    DEFAULT_TOP_N,
    OTHER_CUTS,
    SELECTION,
    Keep,
    OnError,
    check_settings,
    instructed,
    refuse_unknown,
    reranking,
    selection_of,
)
from rerank_plugins._internal.rank_fields import RankFields
from rerank_plugins.backend import ascore_with
from rerank_plugins.content import Query
from rerank_plugins.errors import UnsupportedInputError
from rerank_plugins.langchain.documents import (
    are_documents,
    best,
    check_documents,
    scored_texts,
)
from rerank_plugins.langchain.reranker import MODEL_CONFIG, Reranker
from rerank_plugins.ranking import Selection, TokenCount
from rerank_plugins.spec import BackendSpec

__all__ = ["RerankCompressor", "RerankInput"]


_OTHER_NAMES: Mapping[str, frozenset[str]] = {
    "documents": frozenset({"candidates", "context", "docs", "passages", "source_documents"}),
    "query": frozenset({"input", "prompt", "q", "question", "query_text", "search_query"}),
}
"""What must be in the input → what chains and graphs call it elsewhere."""


class RerankInput(TypedDict):
    """What `RerankCompressor.invoke` takes; the last two override the compressor's own.

    The input may hold more, as the state of a chain or a graph does; the rest is ignored.
    """

    documents: Sequence[Document]
    query: str | Query
    top_n: NotRequired[int | None]
    min_score: NotRequired[float | None]


class RerankCompressor(
    Reranker, BaseDocumentCompressor, RunnableSerializable[RerankInput, list[Document]]
):
    """Orders documents by their relevance to a query and keeps the best.

    It goes wherever LangChain takes a `BaseDocumentCompressor`, and it is a `Runnable`, so it
    also stands in a chain:

        {"documents": retriever, "query": RunnablePassthrough()} | RerankCompressor(top_n=5)

    Documents come back as copies, best first, with their id, class and metadata; yours are not
    changed, and equal scores keep their order. The copies' metadata gains

    - `relevance_score`: the new score, a float on the scale of the backend;
    - `retriever_rank`: the document's place before reranking, from 1;
    - `retriever_score`: the `relevance_score` it came with, if it came with one;
    - `rerank_status`: `"scored:NAME"`, only where a fallback chain chose who scored, or
      `"fallback:ERROR"`, where nobody did;
    - `rerank_passage`: `[start, end]`, the characters of the text that made the score, only where
      a long document was read in windows;
    - `rerank_truncated`: True, only where the model read a part of the document;
    - `rerank_cutoff`: `"min_gap"` or `"max_tokens"`, only where that ended the ranking;
    - `rerank_duplicates`: the ranks before reranking, from 1, of documents that `distinct` left out
      because they repeat this one, only where there are some.

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
        min_gap: the fall from one score to the next that ends the ranking, on the same scale.
        max_tokens: how many tokens the contents may have together; never more are kept.
        count_tokens: what counts them; see `rerank_plugins.rank()`. Only a path can be serialised.
        distinct: the share of a document that must stand in a better one to leave it out, 0 to 1.
        rank_fields: which metadata are scored with the content, which is called `text`: names, one
            line each, as in `["title", "text"]`, or a template, as in `"{title}: {text}"`. A
            document may lack some of them, not all. None scores the content alone.
        instruction: what the model should judge, for backends that can tell their model; a
            `rerank_plugins.Query` with one of its own replaces it.
        on_error: `"original_order"` returns the first documents as they came, without a
            `relevance_score` and whatever `min_score` and `min_gap` say, when the backend is
            unavailable or breaks. Wrong input, a wrong key and other refusals are raised all the
            same.
        keep: `"passage"` cuts documents that were read in windows to the best one;
            `rerank_passage` says where it stands in the document, which is left as it is.
        name: what to call the run in traces; by default the name of the class.

    Raises:
        ConfigError: a setting is unknown or wrong.
        MissingDependencyError: the backend needs an extra that is not installed.
    """

    model_config = MODEL_CONFIG

    def __init__(
        self,
        backend: BackendSpec = None,
        *,
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
        **unknown: Never,  # only to answer misnamed settings with the right name
    ) -> None:
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
            input: the documents and the query; may also hold `top_n` and `min_score`. Other keys
                are ignored, except for what other rerankers call these two; so is `instruction`,
                which in the state of a chain may be meant for another model.
            config: callbacks and the like, as every `Runnable` takes them.
            kwargs: for this call, `instruction` and what says how many documents to keep; they win
                over `input`.

        Raises:
            ConfigError: a setting for this call is unknown, misnamed or wrong.
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

    def _request(self, chain_input: RerankInput, settings: Mapping[str, Any]) -> RerankInput:
        """Return the whole request, with the settings that hold for it."""
        if not isinstance(chain_input, Mapping):
            raise UnsupportedInputError(
                "the input must be a mapping {'documents': […], 'query': '…'}, "
                f"not `{type(chain_input).__name__}`"
            )
        where = f"{type(self).__name__}.invoke"
        valid = RerankInput.__annotations__
        own = {*valid, *SELECTION, "instruction"}
        refuse_unknown(settings.keys() - own, valid=own, where=where)
        refuse_unknown(sorted(OTHER_CUTS & chain_input.keys()), valid=valid, where=where)
        ours = {name: value for name, value in chain_input.items() if name in valid}
        fixed = {name: getattr(self, name) for name in SELECTION}
        shown = {name: fixed[name] for name in fixed if name in valid or fixed[name] is not None}
        request = {**shown, **ours, **settings}
        instruction = request.pop("instruction", self.instruction)
        for name, others in _OTHER_NAMES.items():
            if name not in request:
                raise UnsupportedInputError(_lacks(name, others, chain_input))
        checked = cast("RerankInput", request)
        check_documents(checked["documents"])
        check_settings(self.backend, selection_of(request), instruction=instruction)
        checked["query"] = instructed(checked["query"], instruction)
        return checked

    def _traced(self, config: RunnableConfig | None) -> RunnableConfig:
        config = ensure_config(config)
        facts = {"rerank_backend": self.backend.label, "rerank_scale": self.backend.scale}
        return {**config, "metadata": {**config["metadata"], **facts}}

    def _rerank(self, request: RerankInput) -> list[Document]:
        texts = scored_texts(request["documents"], self.rank_fields)
        with reranking(self.backend, len(texts), on_error=self.on_error) as outcome:
            if texts:
                outcome.scores = self.backend.score(request["query"], texts)
        return best(request["documents"], texts, outcome, selection_of(request), self.keep)

    async def _arerank(self, request: RerankInput) -> list[Document]:
        texts = scored_texts(request["documents"], self.rank_fields)
        with reranking(self.backend, len(texts), on_error=self.on_error) as outcome:
            if texts:
                outcome.scores = await ascore_with(self.backend, request["query"], texts)
        return best(request["documents"], texts, outcome, selection_of(request), self.keep)


def _lacks(name: str, others: Collection[str], chain_input: Mapping[str, object]) -> str:
    """Return the error's text for an input without a key, which may have another name there."""
    written = {"documents": "[…]", "query": "'…'"}
    text = f"the input lacks `{name}`"
    found = sorted(others & chain_input.keys()) or [
        key
        for key, value in chain_input.items()
        if name == "documents" and are_documents(value) and key.isidentifier()
    ]
    if found:
        text += f", and has `{found[0]}`"
        written[name] = f"state[{found[0]!r}]"
    return f"{text}; pass " + "{" + ", ".join(f"{key!r}: {written[key]}" for key in written) + "}"
