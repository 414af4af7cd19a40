"""What clients send and get: the shapes that Cohere, Jina, Xinference and TEI have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

__all__ = [
    "AnyRerankRequest",
    "AuthReply",
    "DocumentObject",
    "Info",
    "Limits",
    "ModelCard",
    "ModelList",
    "PlainReply",
    "ProblemReply",
    "RankedText",
    "RerankReply",
    "RerankRequest",
    "RerankResult",
    "Status",
    "TEIReply",
]


def _having(**values: str | bool) -> JsonDict:
    """Return the JSON Schema of an object whose fields have these types, or these values."""
    fields: JsonDict = {
        name: {"type": value} if isinstance(value, str) else {"const": value}
        for name, value in values.items()
    }
    return {"required": [*fields], "properties": fields}


def _never(**values: str | bool) -> JsonDict:
    return {"not": _having(**values)}


_ONE_SCALE = [_never(raw_scores=value, use_activation=value) for value in (True, False)]
"""What `_check_scale` checks, as JSON Schema."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class DocumentObject(_Strict):
    """A document as an object."""

    text: str


def _whole(value: object) -> object:
    """Return 3.0 as 3: they are the same number in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _no_number(value: object) -> object:
    """Refuse 0 and 1, which Python takes to equal False and True."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError("Input should be a valid boolean")  # noqa: TRY004  # pydantic's way
    return value


_WHOLE = BeforeValidator(_whole)
_BOOLEAN = BeforeValidator(_no_number)
AtLeastOne: TypeAlias = Annotated[int, Field(ge=1, le=2**31 - 1), _WHOLE] | None
Documents: TypeAlias = Annotated[list[str | DocumentObject], Field(fail_fast=True)]
Texts: TypeAlias = Annotated[list[str], Field(fail_fast=True)]

ModelName: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)] | None


class RerankRequest(_Strict):
    """A request as Cohere (v1 and v2), Jina, Xinference, Infinity and vLLM take it.

    Fields that a server without chunking or instructions can't honour are accepted only at the
    values that ask for nothing.
    """

    model_config = ConfigDict(json_schema_extra={"allOf": [*_ONE_SCALE]})

    query: str
    documents: Documents
    model: ModelName = None
    top_n: AtLeastOne = None
    """How many results to return; all if it is not given."""
    return_documents: bool | None = None
    """Whether to repeat each document in its result."""
    raw_scores: bool | None = None
    """Whether to send logits instead of probabilities, as Infinity calls it."""
    use_activation: bool | None = None
    """The opposite, as vLLM calls it."""
    return_len: Annotated[Literal[False], _BOOLEAN] | None = None
    max_chunks_per_doc: Annotated[int, Field(ge=1, le=1), _WHOLE] | None = None
    max_tokens_per_doc: AtLeastOne = None
    """Only at or above the length at which the model itself cuts."""
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=-1), _WHOLE] | None = None
    priority: Annotated[int, Field(ge=0, le=0), _WHOLE] | None = None
    rank_fields: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    kwargs: Literal["{}"] | None = None
    """Xinference's client always sends it."""

    @model_validator(mode="after")
    def _one_scale(self) -> Self:
        _check_scale(self.raw_scores, self.use_activation)
        return self

    @property
    def raw(self) -> bool | None:
        """Whether logits are asked for; None leaves it to the server."""
        return self.raw_scores if self.use_activation is None else not self.use_activation


class AnyRerankRequest(_Strict):
    """A request to `/rerank`, whose shape tells the protocol.

    `texts`: that of Text Embeddings Inference. `documents`: that of Infinity and vLLM.
    `candidates` or `top_k`: the plain one.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [_having(**{name: "array"}) for name in ("texts", "documents", "candidates")],
            "allOf": [
                *_ONE_SCALE,
                _never(top_n="integer", top_k="integer"),
                _never(texts="array", top_n="integer"),
                _never(texts="array", top_k="integer"),
            ],
        }
    )

    query: str
    texts: Texts | None = None
    documents: Documents | None = None
    candidates: Documents | None = None
    model: ModelName = None
    top_n: AtLeastOne = None
    top_k: AtLeastOne = None
    return_documents: bool | None = None
    return_text: bool | None = None
    """TEI's name of `return_documents`."""
    raw_scores: bool | None = None
    use_activation: bool | None = None
    truncate: Annotated[Literal[True], _BOOLEAN] | None = None
    """Too long texts are always cut."""
    truncation_direction: Literal["Right", "right"] | None = None
    max_tokens_per_doc: AtLeastOne = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=-1), _WHOLE] | None = None
    priority: Annotated[int, Field(ge=0, le=0), _WHOLE] | None = None

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        lists = (self.texts, self.documents, self.candidates)
        if sum(found is not None for found in lists) != 1:
            raise ValueError("give one of: documents, candidates, texts")
        if self.top_n is not None and self.top_k is not None:
            raise ValueError("give top_n or top_k, not both")
        if self.texts is not None and (self.top_n or self.top_k):
            raise ValueError("top_n and top_k go with documents or candidates, not with texts")
        _check_scale(self.raw_scores, self.use_activation)
        return self

    @property
    def raw(self) -> bool | None:
        """Whether logits are asked for; None leaves it to the server."""
        return self.raw_scores if self.use_activation is None else not self.use_activation

    @property
    def is_plain(self) -> bool:
        """Whether it is of the plain shape."""
        return self.candidates is not None or self.top_k is not None


def _check_scale(raw_scores: bool | None, use_activation: bool | None) -> None:  # noqa: FBT001
    if raw_scores is not None and raw_scores is use_activation:
        raise ValueError("raw_scores and use_activation contradict each other")


class RerankResult(BaseModel):
    """The place of one document."""

    index: int
    relevance_score: float
    document: DocumentObject | None = None


class RerankReply(BaseModel):
    """The best documents, best first."""

    id: str
    model: str
    results: list[RerankResult]
    meta: dict[str, Any]


class TEIReply(BaseModel):
    """The place of one document, as Text Embeddings Inference says it."""

    index: int
    score: float
    text: str | None = None


class RankedText(BaseModel):
    """The place of one document, in the plain shape."""

    index: int
    score: float
    document: str


class PlainReply(BaseModel):
    """The best documents, best first, in the plain shape."""

    model: str
    results: list[RankedText]


class Status(BaseModel):
    """What a probe says."""

    status: str


class AuthReply(BaseModel):
    """Whether requests must carry a key."""

    auth: bool


class Limits(BaseModel):
    """The most that a request may hold."""

    body_bytes: int
    documents: int
    document_characters: int
    query_characters: int


class Info(BaseModel):
    """The model, its scale and the limits; the first fields are those of TEI."""

    model_id: str
    model_type: dict[str, Any]
    max_client_batch_size: int
    max_input_length: int | None
    auto_truncate: bool
    version: str
    scale: Literal["probability", "logit", "unknown"]
    status: str
    backend: dict[str, Any]
    """What the backend says about itself."""
    limits: Limits


class ModelCard(BaseModel):
    """A model, as OpenAI and Xinference list it."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "rerank-plugins"
    model_type: Literal["rerank"] = "rerank"
    model_name: str
    model_ability: list[str] = ["rerank"]
    max_model_len: int | None = None


class ModelList(BaseModel):
    """The models of this server."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ProblemDetail(BaseModel):
    """What went wrong."""

    type: str
    message: str
    request_id: str


class ProblemReply(BaseModel):
    """Every error of this server."""

    error: ProblemDetail
    detail: str
    message: str
