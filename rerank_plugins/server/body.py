"""Read and check a request's body, within bounds of size, time and depth."""

from __future__ import annotations

import asyncio
import json
import re
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.requests import Request

from rerank_plugins.server.errors import APIError
from rerank_plugins.server.schemas import STRICT, DocumentObject
from rerank_plugins.server.settings import ServerSettings

__all__ = ["BodyReader", "parse"]

_Model = TypeVar("_Model", bound=BaseModel)
_LARGE = 64 * 1024
"""Bytes of a body that holds up the event loop for about a millisecond, or less."""
_WAITING_SHARE = 4
"""Complete bodies that wait for their turn may have a quarter of `buffer_bytes`."""
_MANY = 40_000
"""Parts of a body that take longer to build than to count."""
_TELLING = ("missing", "value_error")
"""The types of errors that tell more than that a document is no string."""
_PART = rb'(?:[^"\[{:,]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+[\[{:,]'
"""Everything up to the next list, object, key or comma outside a string."""


class BodyReader:
    """Reads the bodies of an application, in one event loop, within the limits of the settings."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._turn = asyncio.Lock()
        self._waiting_bytes = 0

    async def read(self, request: Request, model: type[_Model]) -> _Model:
        """Return the body of a request as a model.

        Large bodies are parsed in turn, and in between the event loop does all else that waits:
        it stands still for one of them, however many there are. In a thread they would hold the
        interpreter at each of its system calls. Where too much waits already, more is refused, and
        what has yet to arrive is not read.

        Raises:
            APIError: the body is too long (413), too slow (408), compressed or not JSON (415), cut
                off (499), too many large ones wait (503), or `parse` refuses it.
        """
        settings = self._settings
        most, strict = settings.max_documents, settings.strict
        length = _check_headers(request.headers, settings.body_bytes)
        if length >= _LARGE:
            self._refuse_if_full(length, close=True)
        body = await _receive(request, max_bytes=settings.body_bytes, seconds=settings.body_seconds)
        if len(body) < _LARGE:
            return parse(model, body, max_documents=most, strict=strict)
        self._refuse_if_full(len(body), close=False)
        self._waiting_bytes += len(body)
        try:
            async with self._turn:
                await asyncio.sleep(0)
                return parse(model, body, max_documents=most, strict=strict)
        finally:
            self._waiting_bytes -= len(body)

    def _refuse_if_full(self, size: int, *, close: bool) -> None:
        waiting = self._waiting_bytes
        if waiting and waiting + size > self._settings.buffer_bytes // _WAITING_SHARE:
            raise APIError(
                503,
                "overloaded",
                "too many large requests wait; try again later",
                retry_after=1,
                close=close,
            )


async def _receive(request: Request, *, max_bytes: int, seconds: float) -> bytes:
    received = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise APIError(499, "client_gone", "the client closed the connection")
                received += message.get("body", b"")
                if len(received) > max_bytes:
                    raise _too_long(max_bytes)
                if not message.get("more_body", False):
                    return bytes(received)
    except TimeoutError:
        raise APIError(
            408, "body_timeout", f"the body did not arrive within {seconds:g} seconds", close=True
        ) from None


def _check_headers(headers: Headers, max_bytes: int) -> int:
    """Return the length that a body declares, 0 if it does not, once its headers are checked."""
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise APIError(415, "encoded_body", "send the body without a Content-Encoding", close=True)
    kind, _, parameters = headers.get("content-type", "").lower().partition(";")
    charset = parameters.replace('"', "").replace(" ", "")
    if kind.strip() != "application/json" or charset not in ("", "charset=utf-8"):
        raise APIError(
            415,
            "not_json",
            "send JSON in UTF-8, with the header Content-Type: application/json",
            close=True,
        )
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > max_bytes:
        raise _too_long(max_bytes)
    return int(length)


def _too_long(max_bytes: int) -> APIError:
    return APIError(
        413, "body_too_long", f"the body may have {max_bytes} bytes at most", close=True
    )


def parse(model: type[_Model], body: bytes, *, max_documents: int, strict: bool = False) -> _Model:
    """Return a JSON body as a model.

    Unknown fields are dropped before pydantic sees them: it would collect an error for each, which
    takes more than a second for a few megabytes of them.

    Args:
        model: the request's model; its lists have no bounds.
        body: the bytes of the body.
        max_documents: the largest number of documents in a list.
        strict: whether to refuse unknown fields and values of another type.

    Raises:
        APIError: the body is not JSON (400), has too many documents (413) or breaks a rule (422);
            the message names the place.
    """
    is_costly = sum(map(body.count, (b"[", b"{", b":", b","))) > _MANY  # with those of the texts
    if is_costly and _oversized(max_documents, len(model.model_fields)).match(body):
        raise APIError(
            413,
            "too_many_documents",
            f"the body has more values than a request with {max_documents} documents, the limit",
        )
    try:
        content = json.loads(
            body.decode(),
            object_pairs_hook=_without_repeated_keys,
            parse_int=str.encode,  # they are dear to read, and most stand where no number belongs
            parse_float=str.encode,
        )
        if not isinstance(content, dict):
            raise APIError(422, "invalid_request", "the body must be an object")
        fields = {
            name: json.loads(value) if isinstance(value, bytes) else value
            for name in model.model_fields
            if (value := content.get(name)) is not None
        }
    except (ValueError, RecursionError):
        raise _invalid_json() from None
    lists = [value for value in fields.values() if isinstance(value, list)]
    if any(len(values) > max_documents for values in lists):
        raise APIError(
            413, "too_many_documents", f"a request has {max_documents} documents at most"
        )
    if strict:
        _refuse_unknown(content, model)
    try:
        if strict:
            return model.model_validate(fields, strict=True, context=STRICT)
        return model.model_validate(fields)
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_context=False, include_input=False)
        best = next((error for error in errors if error["type"] in _TELLING), errors[0])
        raise APIError(422, "invalid_request", _error_message(model, best)) from None


@cache
def _oversized(max_documents: int, fields: int) -> re.Pattern[bytes]:
    """Return what matches a JSON text with more parts than a request can have.

    A document is an object with one key and a comma; a field is a key and a comma; then come the
    body itself, its list of documents, and `rank_fields`; and there may be fields that are ignored.
    Counting up to this number takes far less time than building all the objects.
    """
    most = max(3 * max_documents + 2 * fields + 4, _MANY)
    return re.compile(b"(?:%s){%d}+" % (_PART, most), re.DOTALL)


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise APIError(400, "repeated_key", "an object in the body has a key twice")
    return fields


def _refuse_unknown(content: dict[str, Any], model: type[BaseModel]) -> None:
    if not content.keys() <= model.model_fields.keys():
        valid = ", ".join(model.model_fields)
        raise APIError(422, "invalid_request", f"the body has an unknown field; valid: {valid}")
    ranked_by = content.get("rank_fields")
    known = {"text"}
    if isinstance(ranked_by, list):
        known |= {name for name in ranked_by if isinstance(name, str)}
    for values in content.values():
        if isinstance(values, list) and any(
            isinstance(value, dict) and not value.keys() <= known for value in values
        ):
            raise APIError(422, "invalid_request", "a document has an unknown field; valid: text")


def _invalid_json() -> APIError:
    return APIError(400, "invalid_json", "the body is not valid JSON in UTF-8")


def _error_message(model: type[BaseModel], error: Any) -> str:
    """Return which rule the body breaks and where, without a word of the body itself."""
    place = ""
    for part in error["loc"]:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part in model.model_fields or part in DocumentObject.model_fields:
            place += f".{part}" if place else part
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
