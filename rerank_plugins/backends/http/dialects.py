"""What each kind of rerank server wants to be asked, and how its reply is read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

from rerank_plugins.errors import ConfigError, InvalidResponse
from rerank_plugins.scores import Scale

__all__ = ["DIALECTS", "Dialect", "decode"]

Fields: TypeAlias = Mapping[str, object]

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


def _as_json_text(instruction: str) -> Fields:
    return {"kwargs": json.dumps({"instruction": instruction}, ensure_ascii=False)}


def _as_parameter(instruction: str) -> Fields:
    return {"parameters": {"instruct": instruction}}


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How one kind of server is asked for scores.

    No dialect sends null, `top_n`, `return_documents` or `max_chunks_per_doc`: servers
    disagree on each of them, and we match scores by index and cut the ranking ourselves.
    """

    path: str
    """Where the server takes rerank requests, below its base URL."""
    scale: Scale
    """What the server promises to send."""
    key_variables: tuple[str, ...]
    """Environment variables that by custom hold the key."""
    base_url: str | None = None
    """The vendor's own address; None where users run the server themselves."""
    needs_model: bool = True
    """Whether a request must name a model."""
    max_documents: int | None = None
    """Most documents in one request."""
    max_characters: int | None = None
    """Longest document; the rest is cut here, far behind where the model would cut."""
    shape: Callable[[str, Sequence[str]], Fields] = _as_documents
    """The family: lays out the query and the documents."""
    always: Fields = field(default_factory=dict)
    """Fields of every request: they make a too long text be cut, not refused."""
    raw: Fields = field(default_factory=dict)
    """Fields that make the server send logits; empty where it has no such switch."""
    instruct: Callable[[str], Fields] | None = None
    """Lays out an instruction for the model; None where servers take none."""

    def endpoint(self, base_url: str) -> str:
        """Return the URL that takes requests: `base_url` and the path, overlaps merged.

        A base URL may end in a slash, in a gateway's prefix, in a version (`…/v1`) that then
        replaces the path's, or be the whole rerank URL.

        Raises:
            ConfigError: it is not an http(s) URL, or holds a user, a query or a fragment.
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
        have, want = base.split("/")[1:], self.path.split("/")[1:]
        for size in range(min(len(have), len(want)), 0, -1):
            if have[-size:] == want[:size]:
                del want[:size]
                break
        else:
            if have and _VERSION.fullmatch(have[-1]) and _VERSION.fullmatch(want[0]):
                del want[0]
        return url._replace(path="/".join(["", *have, *want])).geturl()

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


# Facts by server: version or SDK read or run in brackets. A missing `max_documents` means that
# the server sets none; ours then splits by bytes alone.
DIALECTS: Mapping[str, Dialect] = {
    "cohere": Dialect(  # [SDK 7.3.1; LiteLLM proxy 1.106 answers the same]
        path="/v2/rerank",
        base_url="https://api.cohere.com",
        scale="probability",
        key_variables=("COHERE_API_KEY", "CO_API_KEY"),
        max_documents=1000,
    ),
    "dashscope": Dialect(  # [SDK 2.0.2, native protocol]
        path="/api/v1/services/rerank/text-rerank/text-rerank",
        base_url="https://dashscope.aliyuncs.com",
        scale="probability",
        key_variables=("DASHSCOPE_API_KEY",),
        max_documents=500,
        shape=_as_input,
        instruct=_as_parameter,
    ),
    "infinity": Dialect(  # [run 0.0.78]
        path="/rerank",
        scale="probability",
        key_variables=("INFINITY_API_KEY",),
        needs_model=False,
        max_documents=2048,
        max_characters=122_880,
        raw={"raw_scores": True},
    ),
    "jina": Dialect(  # [vendor's page; the scale differs between its models]
        path="/v1/rerank",
        base_url="https://api.jina.ai",
        scale="unknown",
        key_variables=("JINA_API_KEY",),
    ),
    "llamacpp": Dialect(  # [run 2026-10; it always sends logits]
        path="/v1/rerank",
        scale="logit",
        key_variables=("LLAMA_API_KEY",),
        needs_model=False,
    ),
    "nim": Dialect(  # [langchain-nvidia 1.5]
        path="/v1/ranking",
        scale="logit",
        key_variables=("NVIDIA_API_KEY",),
        max_documents=512,
        shape=_as_passages,
        always={"truncate": "END"},
    ),
    "siliconflow": Dialect(  # [vendor's page]
        path="/v1/rerank",
        base_url="https://api.siliconflow.cn",
        scale="probability",
        key_variables=("SILICONFLOW_API_KEY",),
        instruct=_as_field,
    ),
    "tei": Dialect(  # [source 1.9.3]
        path="/rerank",
        scale="probability",
        key_variables=("TEI_API_KEY",),
        needs_model=False,
        max_documents=32,
        shape=_as_texts,
        always={"truncate": True},
        raw={"raw_scores": True},
    ),
    "vllm": Dialect(  # [run 0.32]
        path="/v1/rerank",
        scale="probability",
        key_variables=("VLLM_API_KEY",),
        needs_model=False,
        always={"truncate_prompt_tokens": -1},
        raw={"use_activation": False},
        instruct=_as_field,
    ),
    "voyage": Dialect(  # [SDK 0.5.0]
        path="/v1/rerank",
        base_url="https://api.voyageai.com",
        scale="probability",
        key_variables=("VOYAGE_API_KEY",),
        max_documents=1000,
        always={"truncation": True},
    ),
    "xinference": Dialect(  # [run 4.1.0; the scale depends on the model's engine]
        path="/v1/rerank",
        scale="unknown",
        key_variables=("XINFERENCE_API_KEY",),
        instruct=_as_json_text,
    ),
}


def decode(body: object, count: int) -> list[float]:
    """Return the scores that a parsed reply holds, in the order of the documents.

    One reader for all dialects: a list, bare or under `results`, `data`, `rankings` or
    `output.results`, of objects with an `index` and a `relevance_score`, `score` or `logit`.
    Whatever else stands there, such as echoed documents, is ignored.

    Args:
        body: the reply, parsed from JSON.
        count: how many documents were asked about.

    Raises:
        InvalidResponse: it does not give each document exactly one finite number.
    """
    items = _items(body)
    if len(items) != count:
        raise InvalidResponse(f"{len(items)} scores for {count} documents")
    scores: list[float | None] = [None] * count
    for position, item in enumerate(items):
        if not isinstance(item, dict):
            raise InvalidResponse(f"result {position} is no object but {_kind(item)}")
        index = item.get("index")
        if type(index) is not int:
            raise InvalidResponse(f"the index of result {position} is {_kind(index)}")
        if not 0 <= index < count:
            raise InvalidResponse(f"the index of result {position} is not within 0 to {count - 1}")
        if scores[index] is not None:
            raise InvalidResponse(f"two scores for document {index}")
        scores[index] = _number(item, index)
    return [score for score in scores if score is not None]  # all: as many as documents, unique


def _items(body: object) -> list[object]:
    found = body
    if isinstance(body, dict):
        output = body.get("output")
        found = next((body[key] for key in ("results", "data", "rankings") if key in body), None)
        if found is None and isinstance(output, dict):
            found = output.get("results")
    if not isinstance(found, list):
        raise InvalidResponse("no list of results")
    return found


def _number(item: Mapping[str, object], index: int) -> float:
    for key in ("relevance_score", "score", "logit"):
        if key in item:
            value = item[key]
            break
    else:
        raise InvalidResponse(f"no score for document {index}")
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
