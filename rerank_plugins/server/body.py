"""Reading a request's body within bounds of size, time, depth and form."""

from __future__ import annotations

import asyncio
import json
import re
from functools import cache, partial
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.requests import Request

from rerank_plugins.server.errors import Problem

__all__ = ["parse", "read"]

_Model = TypeVar("_Model", bound=BaseModel)
_OF_SYNTAX = frozenset({"json_invalid", "json_type"})
_PART = rb'(?:[^"\[{:,]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+[\[{:,]'
"""All up to the next list, object, key or comma outside of a string."""


async def read(request: Request, *, most_bytes: int, seconds: float) -> bytes:
    """Return the body of a request.

    Raises:
        Problem: it is too long (413), too slow (408), compressed or no JSON (415), or cut off.
    """
    _check_headers(request.headers, most_bytes)
    received = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise Problem(499, "client_gone", "the client closed the connection")
                received += message.get("body", b"")
                if len(received) > most_bytes:
                    raise _too_long(most_bytes)
                if not message.get("more_body", False):
                    return bytes(received)
    except TimeoutError:
        raise Problem(
            408, "body_timeout", f"the body did not arrive within {seconds:g} seconds", close=True
        ) from None


def _check_headers(headers: Headers, most_bytes: int) -> None:
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Problem(415, "encoded_body", "send the body without a Content-Encoding", close=True)
    kind, _, parameters = headers.get("content-type", "").lower().partition(";")
    charset = parameters.replace('"', "").replace(" ", "")
    if kind.strip() != "application/json" or charset not in ("", "charset=utf-8"):
        raise Problem(
            415,
            "not_json",
            "send JSON in UTF-8, with the header Content-Type: application/json",
            close=True,
        )
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > most_bytes:
        raise _too_long(most_bytes)


def _too_long(most_bytes: int) -> Problem:
    return Problem(
        413, "body_too_long", f"the body may have {most_bytes} bytes at most", close=True
    )


def parse(model: type[_Model], body: bytes, *, max_documents: int) -> _Model:
    """Return a JSON body as a model, strictly: no extra fields, no conversions, no repeated keys.

    What costs most is asked last: pydantic copies what it refuses, and collects an error for each
    unknown field, which takes more than a second for a few megabytes of them.

    Args:
        model: of the request; its lists are not bounded.
        body: what came.
        max_documents: the most that a list may hold.

    Raises:
        Problem: it is no JSON (400), has too many documents (413) or breaks a rule (422); the
            message names the place.
    """
    if _longer(max_documents, len(model.model_fields)).match(body):
        raise Problem(
            413,
            "too_many_documents",
            f"the body has more values than a request with {max_documents} documents, the most "
            "it may have",
        )
    try:
        found = json.loads(body.decode(), object_pairs_hook=partial(_known_object, model))
    except (ValueError, RecursionError):
        raise _not_json() from None
    if isinstance(found, dict):
        longest = max(
            (len(value) for value in found.values() if isinstance(value, list)), default=0
        )
        if longest > max_documents:
            raise Problem(
                413, "too_many_documents", f"a request has {max_documents} documents at most"
            )
    try:
        return model.model_validate_json(body, strict=True)  # JSON's own strictness
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] in _OF_SYNTAX:
            raise _not_json() from None
        raise Problem(422, "invalid_request", _told(model, first)) from None


@cache
def _longer(max_documents: int, fields: int) -> re.Pattern[bytes]:
    """Return what matches a JSON text with more parts than a request can have.

    A document is an object with one key and a comma; a field is a key and a comma; and there are
    the body itself, its list of documents, and `rank_fields`. To count no further than this takes
    far less time than to make them all.
    """
    return re.compile(b"(?:%s){%d}+" % (_PART, 3 * max_documents + 2 * fields + 4), re.DOTALL)


def _known_object(model: type[BaseModel], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object that is a document or the body, from the innermost to the outermost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Problem(400, "repeated_key", "an object in the body has a key twice")
    if "text" in found and "query" not in found:
        if len(found) > 1:
            raise Problem(422, "invalid_request", "a document has an unknown field; valid: text")
    elif not found.keys() <= model.model_fields.keys():
        valid = ", ".join(model.model_fields)
        raise Problem(422, "invalid_request", f"the body has an unknown field; valid: {valid}")
    return found


def _not_json() -> Problem:
    return Problem(400, "invalid_json", "the body is not valid JSON in UTF-8")


def _told(model: type[BaseModel], error: Any) -> str:
    """Say which rule was broken and where, with no word of the body itself."""
    place = ""
    for part in error["loc"]:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part in model.model_fields:
            place += part
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
