"""The protocol of each kind of rerank server: its requests and its responses.

A new dialect is an entry in `DIALECTS` and nothing else. Importing this module is cheap.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import SplitResult, urlsplit

from rerank_plugins.errors import ConfigError, InvalidResponse
from rerank_plugins.scores import Scale, Usage

__all__ = ["DIALECTS", "Dialect", "Fields", "decode_results", "decode_usage"]

Fields: TypeAlias = Mapping[str, object]

_MAX_COUNT = 2**53
"""Larger counts make no sense, and no counter of metrics takes them."""
_VERSION = re.compile(r"v\d+")
_RERANK_PATH = re.compile(r".*/(rerank|reranks|reranking|ranking|text-rerank)")


def _as_documents(query: str, documents: Sequence[str]) -> Fields:
    return {"query": query, "documents": documents}


def _as_texts(query: str, documents: Sequence[str]) -> Fields:
    return {"query": query, "texts": documents}


def _as_passages(query: str, documents: Sequence[str]) -> Fields:
    return {"query": {"text": query}, "passages": [{"text": text} for text in documents]}


def _as_input(query: str, documents: Sequence[str]) -> Fields:
    return {"input": {"query": query, "documents": documents}}


def _as_field(instruction: str) -> Fields:
    return {"instruction": instruction}


def _as_instruct(instruction: str) -> Fields:
    return {"instruct": instruction}


def _as_json_text(instruction: str) -> Fields:
    return {"kwargs": json.dumps({"instruction": instruction}, ensure_ascii=False)}


def _as_parameter(instruction: str) -> Fields:
    return {"parameters": {"instruct": instruction}}


def decode_results(body: object, count: int) -> list[float]:
    """Return the scores in a parsed response, in the order of the documents.

    One reader for all dialects: a list, bare or under `results`, `data`, `rankings` or
    `output.results`, of objects with an `index` and a `relevance_score`, `score` or `logit`.
    Everything else, such as echoed documents, is ignored.

    Args:
        body: the response, parsed from JSON.
        count: how many documents the request held.

    Raises:
        InvalidResponse: not exactly one finite number for each document.
    """
    items = _items(body)
    if len(items) != count:
        raise InvalidResponse(f"{len(items)} scores for {count} documents")
    scores: list[float | None] = [None] * count
    for position, item in enumerate(items):
        if not isinstance(item, dict):
            raise InvalidResponse(f"result {position} is {_kind(item)}, not an object")
        index = item.get("index")
        if type(index) is not int:
            raise InvalidResponse(
                f"the index of result {position} is {_kind(index)}, not an integer"
            )
        if not 0 <= index < count:
            raise InvalidResponse(f"the index of result {position} is not within 0 to {count - 1}")
        if scores[index] is not None:
            raise InvalidResponse(f"two scores for document {index}")
        scores[index] = _score(item, index)
    return [score for score in scores if score is not None]  # all: `count` different indices


def decode_usage(body: object) -> Usage | None:
    """Return the tokens and search units that a response reports; None if it reports neither.

    One reader for all dialects: `usage.total_tokens` or `usage.prompt_tokens`, or Cohere's
    `meta.tokens.input_tokens` and `meta.billed_units.search_units`. Other values are ignored, and
    those that a server of ours lists in `meta.estimated`: nobody counted them.
    """
    usage = _child(body, "usage")
    meta = _child(body, "meta")
    counts = (
        _count(usage, "total_tokens"),
        _count(usage, "prompt_tokens"),
        _count(_child(meta, "tokens"), "input_tokens"),
    )
    tokens = next((count for count in counts if count is not None), None)
    search_units = _count(_child(meta, "billed_units"), "search_units")
    estimated = _child(meta, "estimated")
    if isinstance(estimated, list):
        tokens = None if "tokens" in estimated else tokens
        search_units = None if "billed_units" in estimated else search_units
    return None if tokens is None and search_units is None else Usage(tokens, search_units)


def _child(body: object, name: str) -> object:
    return body.get(name) if isinstance(body, dict) else None


def _count(fields: object, name: str) -> int | None:
    value = _child(fields, name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= _MAX_COUNT else None


def _items(body: object) -> list[object]:
    items = body
    if isinstance(body, dict):
        output = body.get("output")
        items = next((body[key] for key in ("results", "data", "rankings") if key in body), None)
        if items is None and isinstance(output, dict):
            items = output.get("results")
    if not isinstance(items, list):
        raise InvalidResponse("no list of results")
    return items


def _score(item: Mapping[str, object], index: int) -> float:
    for key in ("relevance_score", "score", "logit"):
        if key in item:
            value = item[key]
            break
    else:
        raise InvalidResponse(f"no score for document {index}")
    if value is None:
        raise InvalidResponse(
            f"the score of document {index} is null, which some servers send for NaN"
        )
    if type(value) not in (int, float):
        raise InvalidResponse(f"the score of document {index} is {_kind(value)}, not a number")
    try:
        number = float(value)  # type: ignore[arg-type]  # an int or a float, see above
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidResponse(f"the score of document {index} is not finite")
    return number


_KINDS = {
    bool: "a boolean",
    dict: "an object",
    float: "a fraction",
    list: "a list",
    str: "a string",
}


def _kind(value: object) -> str:
    return "null or missing" if value is None else _KINDS.get(type(value), "a number")


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The protocol of one kind of rerank server, as data and pure functions.

    No dialect sends null, `return_documents` or `max_chunks_per_doc`, nor `top_n` unless told:
    servers disagree on each of them, and we match scores by index and cut the ranking ourselves.
    """

    name: str
    """The kind of server, as in a spec."""
    path: str
    """The path of rerank requests below the base URL."""
    scale: Scale
    """The scale of the scores that the server sends."""
    key_variables: tuple[str, ...] = ()
    """Environment variables that usually hold the key."""
    key_header: str = "Authorization"
    """The header that holds the key."""
    key_prefix: str = "Bearer "
    """What stands before the key in that header."""
    base_url: str | None = None
    """The vendor's own address; None where users run the server themselves."""
    needs_model: bool = True
    """Whether a request must name a model."""
    max_documents: int | None = None
    """Maximum documents in one request."""
    max_characters: int | None = None
    """Longest document; longer ones are cut here, far beyond where the model would cut."""
    blank: str = " "
    """What is sent in place of a blank document."""
    # Factories: as plain defaults, functions would look like methods of the class.
    shape: Callable[[str, Sequence[str]], Fields] = field(default_factory=lambda: _as_documents)
    """Lays out the query and the documents."""
    always: Fields = field(default_factory=dict)
    """Fields of every request: they make the server cut a text that is too long, not refuse it."""
    raw: Fields = field(default_factory=dict)
    """Fields that make the server send logits; empty if it has no such switch."""
    instruct: Callable[[str], Fields] | None = None
    """Lays out an instruction for the model; None if the server takes none."""
    decode: Callable[[Any, int], Sequence[float]] = field(default_factory=lambda: decode_results)
    """Reads the scores from the parsed response to this number of documents."""
    usage: Callable[[Any], Usage | None] = field(default_factory=lambda: decode_usage)
    """Reads the usage from the parsed response; None if it holds none."""

    def rerank_url(self, base_url: str) -> str:
        """Return the URL of rerank requests: `base_url` and the path, overlaps merged.

        A base URL may end in a slash, in a gateway's prefix, in a version (`…/v1`) that replaces
        the path's version, or be the whole rerank URL.

        Raises:
            ConfigError: it is not an http(s) URL, or holds a user name, a query or a fragment.
        """
        url = _split(base_url)
        if url is None:
            shown = base_url.partition("?")[0].rpartition("@")[2]
            raise ConfigError(f"`base_url` must be like https://host:port/prefix, not {shown!r}")
        if "@" in url.netloc or url.query or url.fragment:
            raise ConfigError(
                f"`base_url` for {url.hostname!r} must hold neither a user name nor a query nor a "
                "fragment; keys come from the environment (`api_key_env`)"
            )
        base = url.path.rstrip("/")
        if _RERANK_PATH.fullmatch(base):
            return url._replace(path=base).geturl()
        prefix, path = base.split("/")[1:], self.path.split("/")[1:]
        for size in range(min(len(prefix), len(path)), 0, -1):
            if prefix[-size:] == path[:size]:
                del path[:size]
                break
        else:
            if prefix and _VERSION.fullmatch(prefix[-1]) and _VERSION.fullmatch(path[0]):
                del path[0]
        return url._replace(path="/".join(["", *prefix, *path])).geturl()

    def encode(
        self,
        query: str,
        documents: Sequence[str],
        *,
        model: str | None = None,
        instruction: str | None = None,
        raw: bool = False,
    ) -> Fields:
        """Return the request's body as plain data, ready for JSON."""
        return {
            **({} if model is None else {"model": model}),
            **self.shape(query, documents),
            **self.always,
            **(self.raw if raw else {}),
            **(self.instruct(instruction) if self.instruct and instruction else {}),
        }


def _split(base_url: str) -> SplitResult | None:
    """Return the parts of an http(s) URL; None if it is something else."""
    try:
        url = urlsplit(base_url)
        usable = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:  # the port or an IPv6 address
        return None
    return url if usable else None


# In brackets: the version that was run, or the SDK or source that was read. Without
# `max_documents` the server has no such limit, and requests are split by bytes alone.
_DIALECTS = (
    Dialect(  # [SDK 7.3.1; LiteLLM proxy 1.106 answers the same]
        name="cohere",
        path="/v2/rerank",
        base_url="https://api.cohere.com",
        scale="probability",
        key_variables=("COHERE_API_KEY", "CO_API_KEY"),
        max_documents=1000,
    ),
    Dialect(  # [SDK 2.0.2, native protocol]
        name="dashscope",
        path="/api/v1/services/rerank/text-rerank/text-rerank",
        base_url="https://dashscope.aliyuncs.com",
        scale="probability",
        key_variables=("DASHSCOPE_API_KEY",),
        max_documents=500,
        shape=_as_input,
        instruct=_as_parameter,
    ),
    Dialect(  # [run 0.0.78]
        name="infinity",
        path="/rerank",
        scale="probability",
        key_variables=("INFINITY_API_KEY",),
        needs_model=False,
        max_documents=2048,
        max_characters=122_880,
        raw={"raw_scores": True},
    ),
    Dialect(  # [vendor's page; the scale differs between its models]
        name="jina",
        path="/v1/rerank",
        base_url="https://api.jina.ai",
        scale="unknown",
        key_variables=("JINA_API_KEY",),
    ),
    Dialect(  # [run 2026-10; it always sends logits]
        name="llamacpp",
        path="/v1/rerank",
        scale="logit",
        key_variables=("LLAMA_API_KEY",),
        needs_model=False,
    ),
    Dialect(  # [langchain-nvidia 1.5]
        name="nim",
        path="/v1/ranking",
        scale="logit",
        key_variables=("NVIDIA_API_KEY",),
        max_documents=512,
        shape=_as_passages,
        always={"truncate": "END"},
    ),
    Dialect(  # [source of 2025-12; it refuses blank documents; the scale depends on the model]
        name="sglang",
        path="/v1/rerank",
        scale="unknown",
        key_variables=("SGLANG_API_KEY",),
        needs_model=False,
        blank=".",
        instruct=_as_instruct,
    ),
    Dialect(  # [vendor's page]
        name="siliconflow",
        path="/v1/rerank",
        base_url="https://api.siliconflow.cn",
        scale="probability",
        key_variables=("SILICONFLOW_API_KEY",),
        instruct=_as_field,
    ),
    Dialect(  # [source 1.9.3]
        name="tei",
        path="/rerank",
        scale="probability",
        key_variables=("TEI_API_KEY",),
        needs_model=False,
        max_documents=32,
        shape=_as_texts,
        always={"truncate": True},
        raw={"raw_scores": True},
    ),
    Dialect(  # [run 0.32]
        name="vllm",
        path="/v1/rerank",
        scale="probability",
        key_variables=("VLLM_API_KEY",),
        needs_model=False,
        always={"truncate_prompt_tokens": -1},
        raw={"use_activation": False, "activation": False},  # the second before 0.12
        instruct=_as_field,
    ),
    Dialect(  # [SDK 0.5.0]
        name="voyage",
        path="/v1/rerank",
        base_url="https://api.voyageai.com",
        scale="probability",
        key_variables=("VOYAGE_API_KEY",),
        max_documents=1000,
        always={"truncation": True},
    ),
    Dialect(  # [run 4.1.0; the scale depends on the model's engine]
        name="xinference",
        path="/v1/rerank",
        scale="unknown",
        key_variables=("XINFERENCE_API_KEY",),
        instruct=_as_json_text,
    ),
)
DIALECTS: Mapping[str, Dialect] = {dialect.name: dialect for dialect in _DIALECTS}
"""Each kind of remote backend, by name."""
