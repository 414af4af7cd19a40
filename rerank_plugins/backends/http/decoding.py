"""Reads the scores and the usage from the parsed response of a rerank server of any known kind."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rerank_plugins.errors import InvalidResponse
from rerank_plugins.scores import Passage, Usage

__all__ = ["DocumentFacts", "decode_count", "decode_facts", "decode_results", "decode_usage"]

_MAX_COUNT = 2**53
"""Larger counts make no sense, and no counter of metrics takes them."""


def decode_results(body: object, count: int) -> list[float]:
    """Return the scores in a parsed response, in the order of the documents.

    One reader for all dialects: a list, bare or under `results`, `data`, `rankings` or
    `output.results`, of objects with an `index` and a `relevance_score`, `score` or `logit`; or
    numbers under `scores`, in the order of the documents. Everything else, such as echoed
    documents, is ignored.

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

    One reader for all dialects: `usage.total_tokens` or `usage.prompt_tokens`, Cohere's
    `meta.tokens.input_tokens` and `meta.billed_units.search_units`, SiliconFlow's
    `tokens.input_tokens`, Pinecone's `usage.rerank_units`, and `total_tokens` or `input_tokens`
    beside the results. Other values are ignored, and those that a server of ours lists in
    `meta.estimated`: nobody counted them.
    """
    usage = _child(body, "usage")
    meta = _child(body, "meta")
    counts = (
        decode_count(usage, "total_tokens"),
        decode_count(usage, "prompt_tokens"),
        decode_count(_child(meta, "tokens"), "input_tokens"),
        decode_count(_child(body, "tokens"), "input_tokens"),
        decode_count(body, "total_tokens"),
        decode_count(body, "input_tokens"),
    )
    tokens = next((count for count in counts if count is not None), None)
    search_units = decode_count(_child(meta, "billed_units"), "search_units")
    if search_units is None:
        search_units = decode_count(usage, "rerank_units")
    estimated = _child(meta, "estimated")
    if isinstance(estimated, list):
        tokens = None if "tokens" in estimated else tokens
        search_units = None if "billed_units" in estimated else search_units
    return None if tokens is None and search_units is None else Usage(tokens, search_units)


class DocumentFacts(NamedTuple):
    """What a response tells of documents, by their positions."""

    truncated: frozenset[int] = frozenset()
    windows: Mapping[int, int] = {}
    passages: Mapping[int, Passage] = {}


def decode_facts(body: object, count: int) -> DocumentFacts:
    """Return what a server of ours tells of documents in `meta`; others tell nothing of the kind.

    What makes no sense is ignored: no score depends on it.

    Args:
        body: the response, parsed from JSON.
        count: how many documents the request held.
    """
    meta = _child(body, "meta")
    told = _child(meta, "truncated")
    cut = told if isinstance(told, list) else []
    numbers = _by_document(_child(meta, "windows"), count)
    spans = _by_document(_child(meta, "passages"), count)
    return DocumentFacts(
        frozenset(at for at in cut if type(at) is int and 0 <= at < count),
        {at: number for at, number in numbers if type(number) is int and 1 < number <= _MAX_COUNT},
        {at: Passage(*span) for at, span in spans if _is_span(span)},
    )


def _is_span(value: Any) -> bool:
    is_pair = isinstance(value, list) and [type(end) for end in value] == [int, int]
    return is_pair and 0 <= value[0] < value[1]


def _by_document(fields: object, count: int) -> Iterator[tuple[int, Any]]:
    """Yield what an object holds by the number of a document."""
    if not isinstance(fields, dict):
        return
    names = {str(at): at for at in range(count)}
    for name, value in fields.items():
        if name in names:
            yield names[name], value


def _child(body: object, name: str) -> object:
    return body.get(name) if isinstance(body, dict) else None


def decode_count(fields: object, name: str) -> int | None:
    """Return the count that a parsed object has under a name; None for what can be none."""
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
        if items is None and isinstance(scores := body.get("scores"), list):
            items = [{"index": index, "score": score} for index, score in enumerate(scores)]
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
