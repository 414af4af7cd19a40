"""Requests and responses: the shapes that Cohere, Jina, Xinference and TEI have in common."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
    model_validator,
)
from pydantic.config import JsonDict

from rerank_plugins._internal.rank_fields import joined_fields

__all__ = [
    "LENGTHS",
    "NEUTRAL",
    "STRICT",
    "AnyRerankRequest",
    "AuthStatus",
    "CohereResult",
    "DocumentObject",
    "ErrorResponse",
    "ModelCard",
    "ModelList",
    "PlainResponse",
    "PlainResult",
    "ProbeStatus",
    "RequestLimits",
    "RerankRequest",
    "RerankResponse",
    "ServerInfo",
    "ServerPaths",
    "TEIResult",
    "V1RerankRequest",
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


_CONTRADICTIONS = [
    *(_never(raw_scores=value, use_activation=value) for value in (True, False)),
    _never(top_n="integer", top_k="integer"),
]
"""What `_AnyShapeRequest._check` refuses, as JSON Schema."""

STRICT = "strict"
"""The context of a validation for a strict server."""


NEUTRAL: Mapping[str, bool | int] = {
    "overlap_tokens": 0,
    "priority": 0,
}
"""The fields that the server ignores, with the value that says what it does anyway.

A strict server takes no other.
"""


LENGTHS: Mapping[str, int] = {
    "max_tokens_per_query": 0,
    "truncate_prompt_tokens": -1,
}
"""The fields that ask to cut texts at a length, with the value that asks for none."""


def _no_boolean(value: object) -> object:
    """Refuse True for 1, and return 3.0 as 3: they are the same number in JSON."""
    if isinstance(value, bool):
        raise ValueError("Input should be a valid integer")  # noqa: TRY004  # pydantic's way
    return int(value) if isinstance(value, float) and value.is_integer() else value


_SPACE = r"[ \t\n\r]*+"
_OPTIONS = re.compile(
    rf"""{_SPACE}(?:null|\{{{_SPACE}(?:"instruction"{_SPACE}:{_SPACE}
    (?:"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^\[\]{{}}",]{{0,32}}+){_SPACE})?+\}}{_SPACE})?+""",
    re.VERBOSE | re.DOTALL,
)
"""JSON with an instruction at most; other values would be dear to read."""


def _instruction_in(kwargs: str) -> str | None:
    """Return the instruction in the JSON text that Xinference's client sends; None without one.

    Raises:
        ValueError: it holds anything else.
    """
    options: Any = False
    if _OPTIONS.fullmatch(kwargs):
        with contextlib.suppress(ValueError):
            options = json.loads(kwargs or "null")
    if options is False:
        raise ValueError("the server has no options but `instruction`; send {} or nothing")
    instruction = (options or {}).get("instruction")
    if not isinstance(instruction, str | None):
        raise ValueError("`instruction` should be a string")  # noqa: TRY004  # pydantic's way
    return instruction


_INTEGER = BeforeValidator(_no_boolean)
_MAX = 2**31 - 1

Text: TypeAlias = Annotated[str, Strict()]
# A schema can't say that each document has to hold one of the fields; `text` they all have.
RankFields: TypeAlias = Annotated[
    list[Annotated[Text, Field(min_length=1)]],
    Field(min_length=1, json_schema_extra={"contains": {"const": "text"}, "uniqueItems": True}),
]
AtLeastOne: TypeAlias = Annotated[int, Field(ge=1, le=_MAX), _INTEGER] | None
AtLeastZero: TypeAlias = Annotated[int, Field(ge=0, le=_MAX), _INTEGER] | None
ModelName: TypeAlias = Annotated[Text, Field(max_length=256)] | None


class DocumentObject(BaseModel):
    """A document as an object."""

    text: Text

    @model_validator(mode="before")
    @classmethod
    def _check_text_only(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and any(fields.get(name) for name in _OTHER_MEDIA):
            raise ValueError("the server reads text only")
        return fields


def _with_text(document: object, places: Mapping[str, int]) -> object:
    """Return a document whose text is that of the named fields, in the order of their places.

    Raises:
        ValueError: it has none of them, or one that holds no text.
    """
    if not isinstance(document, dict):
        return document
    try:
        return {**document, "text": joined_fields(document, places)}
    except ValueError as error:
        raise ValueError(f"rank_fields: {error}") from None


_OTHER_MEDIA = ("audio", "image", "video")
Documents: TypeAlias = Annotated[list[Text | DocumentObject], Field(fail_fast=True)]
Texts: TypeAlias = Annotated[list[Text], Field(fail_fast=True)]


class _AnyShapeRequest(BaseModel):
    """The fields that the requests of all shapes have.

    Beside those that the server honours, there are those that it may ignore, and those that would
    change the result, of which it takes only the values that do not.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    query: Text
    model: ModelName = None
    return_documents: bool | None = None
    """Whether to repeat each document in its result."""
    top_n: AtLeastOne = None
    """How many results to return; None returns all."""
    top_k: AtLeastOne = None
    """The same, as some call it."""
    raw_scores: bool | None = None
    """Whether to send logits instead of probabilities, as Infinity calls it."""
    use_activation: bool | None = None
    """The opposite, as vLLM calls it."""
    max_tokens_per_doc: AtLeastZero = None
    """How many tokens to read of a document, estimated; 0 reads what the model can."""
    max_tokens_per_query: AtLeastZero = None
    """0, or at least the length at which the model itself cuts."""
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=_MAX), _INTEGER] | None = None
    """-1, or at least the length at which the model itself cuts."""
    truncation_side: Literal["right"] | None = None
    truncate: bool | None = None
    """Whether to cut texts that are too long; False refuses a request that holds one."""
    rank_fields: RankFields | None = None
    """The fields of document objects to score, one after another; None: `text` alone."""
    max_chunks_per_doc: AtLeastOne = None
    """How many times the model's length to read of a document, estimated."""
    overlap_tokens: AtLeastZero = None
    """Ignored: windows overlap by an eighth."""
    priority: Annotated[int, Field(ge=-_MAX, le=_MAX), _INTEGER] | None = None
    """Ignored: requests take turns."""
    return_len: bool | None = None
    """Xinference's wish for the tokens, which responses always have."""
    instruction: Text | None = None
    """What the model should judge, where it takes an instruction; a blank one is none."""
    instruct: Text | None = None
    """The same, as SGLang and DashScope call it."""
    kwargs: Annotated[Text, AfterValidator(_instruction_in)] | None = None
    """The instruction in the JSON that Xinference's client always sends."""

    @model_validator(mode="before")
    @classmethod
    def _read_rank_fields(cls, fields: Any) -> Any:
        """Put the fields to rank by into the text of each document."""
        names = fields.get("rank_fields") if isinstance(fields, dict) else None
        if not isinstance(names, list) or names in ([], ["text"]):
            return fields
        places = {name: place for place, name in enumerate(names) if isinstance(name, str)}
        if len(places) < len(names):  # a body of 4 MB could ask for texts of gigabytes
            raise ValueError("rank_fields: give names, each of them once")
        lists = {
            name: [_with_text(document, places) for document in fields[name]]
            for name in ("documents", "candidates")
            if isinstance(fields.get(name), list)
        }
        return {**fields, **lists}

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Self:
        if self.raw_scores is not None and self.raw_scores is self.use_activation:
            raise ValueError("raw_scores and use_activation contradict each other")
        if self.top_n is not None and self.top_k is not None:
            raise ValueError("give top_n or top_k, not both")
        if len({*self._instructions}) > 1:
            raise ValueError("instruction, instruct and kwargs contradict each other")
        if self.truncate_prompt_tokens == 0:
            raise ValueError("truncate_prompt_tokens: no token would be left")
        if info.context == STRICT:
            for name, neutral in NEUTRAL.items():
                if getattr(self, name) not in (None, neutral):
                    raise ValueError(f"{name}: a strict server takes only {neutral}")
        return self

    @property
    def raw(self) -> bool | None:
        """Whether the client asks for logits; None leaves it to the server."""
        return self.raw_scores if self.use_activation is None else not self.use_activation

    @property
    def _instructions(self) -> list[str]:
        given = (self.instruction, self.instruct, self.kwargs)
        return [instruction for instruction in given if instruction and not instruction.isspace()]

    @property
    def wanted_instruction(self) -> str | None:
        """What the model should judge; None leaves it to the backend."""
        return next(iter(self._instructions), None)

    @property
    def most(self) -> int | None:
        """How many results to return; None returns all."""
        return self.top_n or self.top_k


class RerankRequest(_AnyShapeRequest):
    """A request as Cohere (v1 and v2), Jina, Xinference, Infinity and vLLM take it."""

    model_config = ConfigDict(json_schema_extra={"allOf": [*_CONTRADICTIONS]})

    documents: Documents


class V1RerankRequest(_AnyShapeRequest):
    """A request to `/v1/rerank`: as `RerankRequest`, or with the `texts` of a TEI client.

    Applications that add `/v1` to any base URL send these there.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [_having(**{name: "array"}) for name in ("texts", "documents")],
            "allOf": [*_CONTRADICTIONS],
        }
    )

    documents: Documents | None = None
    texts: Texts | None = None
    return_text: bool | None = None
    """TEI's name of `return_documents`."""

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if (self.documents is None) is (self.texts is None):
            raise ValueError("give one of: documents, texts")
        return self


class AnyRerankRequest(_AnyShapeRequest):
    """A request to `/rerank`, in the shape of any protocol.

    `texts`: that of Text Embeddings Inference. `documents`: that of Infinity and vLLM.
    `candidates` or `top_k`: the plain one.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [_having(**{name: "array"}) for name in ("texts", "documents", "candidates")],
            "allOf": [*_CONTRADICTIONS],
        }
    )

    texts: Texts | None = None
    documents: Documents | None = None
    candidates: Documents | None = None
    return_text: bool | None = None
    """TEI's name of `return_documents`."""
    truncation_direction: Literal["Right", "right"] | None = None

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        lists = (self.texts, self.documents, self.candidates)
        if sum(documents is not None for documents in lists) != 1:
            raise ValueError("give one of: documents, candidates, texts")
        return self

    @property
    def is_plain(self) -> bool:
        """Whether the request has the plain shape."""
        return self.candidates is not None or self.top_k is not None


class CohereResult(BaseModel):
    """A document's score."""

    index: int
    relevance_score: float
    document: DocumentObject | None = None


class TokenUsage(BaseModel):
    """The tokens that the model read, as Jina, Infinity and vLLM send them."""

    prompt_tokens: int
    total_tokens: int


class APIVersion(BaseModel):
    """The version of Cohere's API that the response follows."""

    version: Literal["1", "2"]


class CohereTokens(BaseModel):
    """The tokens that the model read, as Cohere sends them."""

    input_tokens: int
    output_tokens: int
    """0: rerankers write none."""


class CohereBilledUnits(BaseModel):
    """What the backend's vendor bills, or else Cohere would: a unit for each 100 documents."""

    search_units: int


class ResponseMeta(BaseModel):
    """Facts about the scores; of the optional ones, one that is unknown is left out."""

    api_version: APIVersion
    billed_units: CohereBilledUnits
    tokens: CohereTokens
    estimated: list[Literal["billed_units", "tokens"]] | None = None
    """Which of them the backend does not report; tokens are then an estimate, in `usage` too."""
    scored_by: str | None = None
    """The model that scored, which in a chain with fallbacks may be another one each time."""
    truncated: list[int] | None = None
    """The indices of the documents of which the model read only a part."""
    windows: dict[str, int] | None = None
    """In how many windows the model read documents, by their indices; others it read at once."""
    passages: dict[str, tuple[int, int]] | None = None
    """The characters of the best window of these: start and end."""
    highlights: dict[str, tuple[int, int]] | None = None
    """The characters of its best sentence, where the model tells it."""


class RerankResponse(BaseModel):
    """The best documents, best first."""

    id: str
    model: str
    results: list[CohereResult]
    meta: ResponseMeta
    usage: TokenUsage


class TEIResult(BaseModel):
    """A document's score, as Text Embeddings Inference sends it."""

    index: int
    score: float
    text: str | None = None


class PlainResult(BaseModel):
    """A document's score, in the plain shape."""

    index: int
    score: float
    document: str


class PlainResponse(BaseModel):
    """The best documents, best first, in the plain shape."""

    model: str
    results: list[PlainResult]
    usage: TokenUsage
    """Estimated if the backend counts no tokens."""


class ProbeStatus(BaseModel):
    """The state of the server, or why it is not as it should be."""

    status: str


class ServerPaths(BaseModel):
    """What the server does, by method and path."""

    paths: dict[str, str]


class AuthStatus(BaseModel):
    """Whether requests must carry a key."""

    auth: bool


class RequestLimits(BaseModel):
    """The bounds of a request."""

    body_bytes: int
    documents: int
    document_characters: int
    query_characters: int


class ServerInfo(BaseModel):
    """The model, its scale and the limits; the first fields are those of TEI."""

    model_id: str
    model_type: dict[str, Any]
    max_client_batch_size: int
    max_concurrent_requests: int
    max_batch_tokens: int
    max_input_length: int
    """In tokens; 512 if the backend does not know it."""
    auto_truncate: bool
    version: str
    scale: Literal["probability", "logit", "similarity", "unknown"]
    status: str
    backend: dict[str, Any]
    """The backend's description of itself."""
    limits: RequestLimits


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


class ErrorDetail(BaseModel):
    """What went wrong, for programs and for people."""

    type: str
    message: str
    request_id: str


class ErrorResponse(BaseModel):
    """An error, in the fields where each protocol's clients look for its message."""

    error: ErrorDetail
    detail: str
    message: str
