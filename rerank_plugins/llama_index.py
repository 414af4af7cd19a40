"""The LlamaIndex adapter: a node postprocessor over any backend."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Never, Self

from rerank_plugins._adapter import (
    DEFAULT_TOP_N,
    METADATA_KEYS,
    RETRIEVER_RANK,
    RETRIEVER_SCORE,
    SELECTION,
    Keep,
    Kept,
    OnError,
    Outcome,
    add_facts,
    add_passage,
    check_keep,
    check_on_error,
    check_settings,
    instructed,
    own_passage,
    refuse_unknown,
    reranking,
    selection_of,
    settings_of,
)
from rerank_plugins._internal.checks import check_choice
from rerank_plugins._internal.optional import require
from rerank_plugins.backend import Backend, ascore_with
from rerank_plugins.content import Content, Document, Query
from rerank_plugins.errors import ConfigError, UnsupportedInputError
from rerank_plugins.ranking import Selection, TokenCount
from rerank_plugins.scores import Passage
from rerank_plugins.spec import BackendSpec, load_backend

try:
    from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
    from llama_index.core.instrumentation import (  # type: ignore[attr-defined]  # no `__all__`
        get_dispatcher,
    )
    from llama_index.core.instrumentation.events.exception import ExceptionEvent
    from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import (
        BaseNode,
        ImageNode,
        MetadataMode,
        Node,
        NodeWithScore,
        QueryBundle,
        TextNode,
    )
    from pydantic import ConfigDict, InstanceOf, field_serializer
except ModuleNotFoundError:
    require("llama_index.core", extra="llama-index")
    raise

__all__ = ["RerankPostprocessor"]

_dispatcher = get_dispatcher(__name__)


class RerankPostprocessor(BaseNodePostprocessor):
    """Reranks retrieved nodes with any backend, best first, and keeps the best `top_n`.

    What is scored is a node's text with the metadata meant for embedding (see `metadata_mode`),
    and its image; the query's image counts, too. A backend that reads texts only scores an image by
    the node's own text, its caption. The nodes returned are copies: their `score` is
    the backend's, and their metadata says what the retriever thought of them, in `retriever_score`
    (absent if it gave none) and `retriever_rank` (from 1); a second reranker leaves them as they
    are. Where a fallback chain chose who scored, `rerank_status` is `"scored:NAME"`; where nobody
    did, it is `"fallback:ERROR"`. `rerank_truncated` is True where the model read a part of a node
    only, and `rerank_passage` is `[start, end]`, the characters of the node's own text that made
    the score, where a long one was read in windows. `rerank_cutoff` is `"min_gap"` or
    `"max_tokens"` where that ended the ranking, and `rerank_duplicates` lists the retriever's ranks
    of nodes that `distinct` left out because they repeat this one. These keys are kept out of
    prompts and embeddings. Nothing that the caller passed in changes.

    Building one is cheap: the model loads, or the connection opens, with the first nodes.

    Args:
        backend: what scores: a spec string such as `"local:BAAI/bge-reranker-v2-m3"`, a
            mapping, the path of a TOML file, a `Backend`, or None for what `RERANK_BACKEND`
            names, else the embedded model. See `load_backend()`.
        top_n: keep at most this many nodes; None keeps all, 0 none.
        min_score: keep nodes that score at least this, on the scale of the backend.
        min_gap: the fall from one score to the next that ends the ranking, on the same scale.
        max_tokens: how many tokens the nodes may have together, with the metadata meant for the
            language model (`MetadataMode.LLM`); never more are kept. A node with an image, whose
            tokens can't be counted, is refused.
        count_tokens: what counts them; see `rerank_plugins.rank()`. Only a path can be serialised.
        distinct: the share of a node that must stand in a better one to leave it out, 0 to 1. Nodes
            with images stay.
        metadata_mode: which metadata are scored with a node's text: `MetadataMode.EMBED`, `LLM`,
            `ALL` or `NONE`, or its value, such as `"none"`.
        instruction: what the model should judge, for backends that can tell their model.
        on_error: `"original_order"` returns the first nodes as they came, with a score of None and
            whatever `min_score` and `min_gap` say, when the backend is unavailable or breaks. Wrong
            input, a wrong key and other refusals are raised all the same.
        keep: `"passage"` cuts nodes that were read in windows to the best one; `rerank_passage`
            says where it stands in the node, which is left as it is.
        callback_manager: where the legacy `RERANKING` callback goes; engines set it.

    Raises:
        ConfigError: a setting is unknown or out of range, the backend spec is malformed, or
            `min_score` is given and the scale of the backend is unknown.
        MissingDependencyError: the backend needs an extra that is not installed.
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True,
        extra="forbid",
        hide_input_in_errors=True,  # a rejected setting may be a key
        validate_assignment=True,
    )

    backend: InstanceOf[Backend]
    """What scores the nodes; shared by copies of this postprocessor."""
    top_n: int | None = DEFAULT_TOP_N
    """Keep at most this many nodes; None keeps all."""
    min_score: float | None = None
    """Keep nodes that score at least this, on the scale of the backend."""
    min_gap: float | None = None
    """The fall of the score that ends the ranking, on the scale of the backend."""
    max_tokens: int | None = None
    """How many tokens the nodes may have together."""
    count_tokens: Any = None
    """What counts the tokens: a function, the path of a `tokenizer.json`, or None: an estimate."""
    distinct: float | None = None
    """The share of a node that must stand in a better one to leave it out, 0 to 1."""
    metadata_mode: MetadataMode = MetadataMode.EMBED
    """Which metadata are scored with a node's text."""
    instruction: str | None = None
    """What the model should judge; None leaves it to the backend."""
    on_error: OnError = "raise"
    """Whether a failure of the backend is raised, or leaves the nodes in their order."""
    keep: Keep = "document"
    """Whether nodes come back whole, or those read in windows as their best passage."""

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
        metadata_mode: MetadataMode | str = MetadataMode.EMBED,
        instruction: str | None = None,
        on_error: OnError = "raise",
        keep: Keep = "document",
        callback_manager: CallbackManager | None = None,
        **unknown: Never,  # only to answer misnamed settings with the right name
    ) -> None:
        refuse_unknown(
            [name for name in unknown if name != "class_name"],  # the framework's mark in a dump
            valid=type(self).model_fields,
            where=type(self).__name__,
        )
        loaded = load_backend(backend)
        selection = Selection(
            top_n=top_n,
            min_score=min_score,
            min_gap=min_gap,
            max_tokens=max_tokens,
            count_tokens=count_tokens,
            distinct=distinct,
        )
        check_settings(loaded, selection, instruction=instruction)
        check_on_error(on_error)
        check_choice("metadata_mode", metadata_mode, [mode.value for mode in MetadataMode])
        check_keep(keep)
        settings: dict[str, Any] = {
            "backend": loaded,
            **settings_of(selection),
            "metadata_mode": MetadataMode(metadata_mode),
            "instruction": instruction,
            "on_error": on_error,
            "keep": keep,
        }
        super().__init__(callback_manager=callback_manager or CallbackManager(), **settings)

    @classmethod
    def class_name(cls) -> str:
        return "RerankPostprocessor"

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Return the settings, JSON-ready and without secrets; `from_dict()` reads them.

        Raises:
            ConfigError: the backend can't be written down as a spec.
        """
        self.backend.to_spec()  # inside the dump, pydantic would wrap its error
        if callable(self.count_tokens):
            raise ConfigError(
                "`count_tokens` is a function, which can't be written down; give the path of a "
                "`tokenizer.json`"
            )
        return super().to_dict(**kwargs)

    @field_serializer("backend")
    def _as_spec(self, backend: Backend) -> dict[str, object]:
        return backend.to_spec()

    def __getstate__(self) -> dict[str, Any]:
        # Callback handlers belong to a process: an unpickled copy starts without any.
        return {
            "backend": self.backend,
            **settings_of(self._selection()),
            "metadata_mode": self.metadata_mode,
            "instruction": self.instruction,
            "on_error": self.on_error,
            "keep": self.keep,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # pydantic needs its own `__init__` to run

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        # A copy shares the backend, so that no model is loaded twice.
        return self.model_copy()

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = self._checked(nodes, query_bundle)
        with self._reported(query, nodes) as reranked:
            with reranking(self.backend, len(nodes), on_error=self.on_error) as outcome:
                if nodes:
                    outcome.scores = self.backend.score(self._query(query), self._documents(nodes))
            reranked.extend(self._reranked(nodes, outcome))
        return reranked

    @_dispatcher.span  # the base class gives one to the synchronous method only
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = self._checked(nodes, query_bundle)
        with self._reported(query, nodes) as reranked:
            with reranking(self.backend, len(nodes), on_error=self.on_error) as outcome:
                if nodes:
                    outcome.scores = await ascore_with(
                        self.backend, self._query(query), self._documents(nodes)
                    )
            reranked.extend(self._reranked(nodes, outcome))
        return reranked

    def _checked(
        self, nodes: Sequence[NodeWithScore], query_bundle: QueryBundle | None
    ) -> QueryBundle:
        """Return the query if the request is sound, and so is what was assigned to settings."""
        check_settings(self.backend, self._selection(), instruction=self.instruction)
        if query_bundle is None:
            raise ConfigError(
                "there is no query to rank by: pass `query_str` or `query_bundle` with the nodes"
            )
        if not isinstance(query_bundle, QueryBundle):
            raise UnsupportedInputError(
                f"`query_bundle` must be a `QueryBundle`, not `{type(query_bundle).__name__}`; "
                "pass a string as `query_str`"
            )
        if not isinstance(nodes, Sequence):
            raise UnsupportedInputError(
                f"`nodes` must be a list of `NodeWithScore`, not `{type(nodes).__name__}`"
            )
        for position, item in enumerate(nodes):
            if not isinstance(item, NodeWithScore):
                raise UnsupportedInputError(
                    f"node {position} must be a `NodeWithScore`, not `{type(item).__name__}`; "
                    "wrap it: NodeWithScore(node=node)"
                )
        return query_bundle

    def _reranked(self, nodes: Sequence[NodeWithScore], outcome: Outcome) -> list[NodeWithScore]:
        cuts = self.keep == "passage"
        kept = outcome.kept(
            self._selection(),
            lambda: [
                _as_read(
                    _cut(item.node, self._passage(item.node, outcome.passage(at) if cuts else None))
                )
                for at, item in enumerate(nodes)
            ],
        )
        return [
            _scored(
                nodes[item.index],
                item,
                outcome.status,
                passage=self._passage(nodes[item.index].node, item.passage),
                cuts=cuts,
                truncated=item.truncated
                or (item.score is not None and self._reads_caption_only(nodes[item.index].node)),
            )
            for item in kept
        ]

    def _selection(self) -> Selection:
        return selection_of({name: getattr(self, name) for name in SELECTION})

    def _query(self, bundle: QueryBundle) -> str | Query:
        query: str | Query = bundle.query_str
        if bundle.image_path is not None:
            query = Query(text=bundle.query_str or None, image=str(bundle.image_path))
        return instructed(query, self.instruction)

    def _documents(self, nodes: Sequence[NodeWithScore]) -> list[Document]:
        return [
            self._text(item.node)
            if self._reads_caption_only(item.node)
            else _document(item.node, self._text(item.node), position)
            for position, item in enumerate(nodes)
        ]

    def _passage(self, node: BaseNode, scored: Passage | None) -> Passage | None:
        """Return where in a node's own text a passage of what was scored stands."""
        own = node.get_content(metadata_mode=MetadataMode.NONE)
        return None if scored is None else own_passage(self._text(node), own, scored)

    def _text(self, node: BaseNode) -> str:
        return node.get_content(metadata_mode=self.metadata_mode)

    def _reads_caption_only(self, node: BaseNode) -> bool:
        """Whether a node has an image and a text, and the backend reads texts alone."""
        return (
            "image" not in self.backend.inputs
            and _has_image(node)
            and bool(node.get_content(metadata_mode=MetadataMode.NONE).strip())
        )

    @contextmanager
    def _reported(
        self, query: QueryBundle, nodes: Sequence[NodeWithScore]
    ) -> Iterator[list[NodeWithScore]]:
        """Report a reranking: its start, then the nodes put into the list, or the error."""
        reranked: list[NodeWithScore] = []
        before = _snapshot(nodes)
        name = self.backend.label
        top_n = len(nodes) if self.top_n is None else self.top_n
        _dispatcher.event(ReRankStartEvent(query=query, nodes=before, top_n=top_n, model_name=name))
        payload: dict[str, Any] = {
            EventPayload.NODES: before,
            EventPayload.MODEL_NAME: name,
            EventPayload.QUERY_STR: query.query_str,
            EventPayload.TOP_K: top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            try:
                yield reranked
            except BaseException as exc:
                _dispatcher.event(ExceptionEvent(exception=exc))
                raise
            after = _snapshot(reranked)
            _dispatcher.event(ReRankEndEvent(nodes=after))
            event.on_end(payload={EventPayload.NODES: after})


def _has_image(node: BaseNode) -> bool:
    if isinstance(node, ImageNode):
        return bool(node.image or node.image_path or node.image_url)
    return isinstance(node, Node) and node.image_resource is not None


def _document(node: BaseNode, text: str, position: int) -> Document:
    image = _image(node, position)
    if image is not None:
        return Content(text=text or None, image=image)
    if isinstance(node, Node) and not text and (node.audio_resource or node.video_resource):
        raise UnsupportedInputError(
            f"node {position} holds audio or video and no text; only text and images can be scored"
        )
    return text


def _as_read(node: BaseNode) -> Document:
    """Return what a language model will read of a node: its text, and that there is an image."""
    text = node.get_content(metadata_mode=MetadataMode.LLM)
    return Content(text, image=b"") if _has_image(node) else text


def _image(node: BaseNode, position: int) -> str | bytes | None:
    """Return the node's image as `Content` takes it: the bytes, a path or a URL."""
    data: str | bytes | None = None
    place: object = None
    if isinstance(node, ImageNode):
        data, place = node.image, node.image_path or node.image_url
    elif isinstance(node, Node) and node.image_resource is not None:
        resource = node.image_resource
        data, place = resource.data, resource.path or resource.url
    if isinstance(data, str) and data.startswith("data:"):
        return data
    if data:
        encoded = data.encode() if isinstance(data, str) else data
        try:
            return base64.b64decode(b"".join(encoded.split()), validate=True)
        except ValueError as exc:
            raise UnsupportedInputError(f"the image of node {position} is not base64") from exc
    return str(place) if place else None


def _scored(
    item: NodeWithScore,
    kept: Kept,
    status: str | None,
    *,
    truncated: bool,
    passage: Passage | None,
    cuts: bool,
) -> NodeWithScore:
    """Copy a node with its new score and what the retriever thought of it."""
    node = item.node
    metadata = dict(node.metadata)
    if RETRIEVER_RANK not in metadata:  # else another reranker came between the retriever and us
        metadata[RETRIEVER_RANK] = kept.index + 1
        if item.score is not None:
            metadata[RETRIEVER_SCORE] = float(item.score)
    add_facts(metadata, kept, status=status, truncated=truncated)
    add_passage(metadata, node.get_content(metadata_mode=MetadataMode.NONE), passage)
    copy = (_cut(node, passage) if cuts else node).model_copy(
        update={
            "metadata": metadata,
            "excluded_embed_metadata_keys": _hiding(node.excluded_embed_metadata_keys),
            "excluded_llm_metadata_keys": _hiding(node.excluded_llm_metadata_keys),
            "relationships": dict(node.relationships),
        }
    )
    return item.model_copy(update={"node": copy, "score": kept.score})


def _cut(node: BaseNode, passage: Passage | None) -> BaseNode:
    """Return a node, or a copy with a passage of its text."""
    if passage is None:
        return node
    text = node.get_content(metadata_mode=MetadataMode.NONE)[passage.start : passage.end]
    copy = node
    if isinstance(node, TextNode):
        update: dict[str, object] = {"text": text}
        if node.start_char_idx is not None:  # where it stands in the document that it is of
            start = node.start_char_idx
            update |= {"start_char_idx": start + passage.start, "end_char_idx": start + passage.end}
        copy = node.model_copy(update=update)
    elif isinstance(node, Node) and node.text_resource is not None:
        resource = node.text_resource.model_copy(update={"text": text})
        copy = node.model_copy(update={"text_resource": resource})
    return copy


def _hiding(keys: Sequence[str]) -> list[str]:
    """Return `keys` and ours, without repeating one."""
    return list(dict.fromkeys([*keys, *METADATA_KEYS]))


def _snapshot(nodes: Sequence[NodeWithScore]) -> list[NodeWithScore]:
    """Copy the nodes for a handler, so that what it kept does not change later."""
    return [
        item.model_copy(
            update={"node": item.node.model_copy(update={"metadata": dict(item.node.metadata)})}
        )
        for item in nodes
    ]
