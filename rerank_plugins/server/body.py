"""Reading a request's body within bounds of size, time, depth and form."""

from __future__ import annotations

import asyncio
import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.requests import Request

from rerank_plugins.server.problems import Problem

__all__ = ["parse", "read"]

_Model = TypeVar("_Model", bound=BaseModel)
_OF_SYNTAX = frozenset({"json_invalid", "json_type"})


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


def parse(model: type[_Model], body: bytes) -> _Model:
    """Return a JSON body as a model, strictly: no extra fields, no conversions, no repeated keys.

    Raises:
        Problem: it is no JSON (400) or breaks a rule (422); the message names the place.
    """
    try:
        parsed = model.model_validate_json(body, strict=True)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] in _OF_SYNTAX:
            raise Problem(400, "invalid_json", "the body is not valid JSON in UTF-8") from None
        raise Problem(422, "invalid_request", _told(model, first)) from None
    json.loads(body, object_pairs_hook=_without_repeats)  # short by now, and of a known form
    return parsed


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Problem(400, "repeated_key", "an object in the body has a key twice")
    return found


def _told(model: type[BaseModel], error: Any) -> str:
    """Say which rule was broken and where, with no word of the body itself."""
    if error["type"] == "extra_forbidden":  # the place would be the unknown name
        inside = "a document" if len(error["loc"]) > 1 else "the body"
        valid = ("text",) if len(error["loc"]) > 1 else model.model_fields
        return f"{inside} has an unknown field; valid: {', '.join(valid)}"
    place = ""
    for part in error["loc"]:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part in model.model_fields:
            place += part
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
