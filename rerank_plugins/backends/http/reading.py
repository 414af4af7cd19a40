"""Reads the JSON that a server sends: strictly, and never more of it than was asked for."""

from __future__ import annotations

import json
import sys
from typing import NoReturn

from rerank_plugins.backends.http.responses import HTTPResponse
from rerank_plugins.errors import BackendError, InvalidResponse

__all__ = ["MAX_VALUES", "parse_json", "parse_message"]

MAX_VALUES = 100_000
"""Most values in a response that belongs to no documents, such as a list of models."""

_MAX_DIGITS = 400
"""Most digits of an integer; the largest fraction has 309."""
_HARMLESS = range(1, 10_000)
"""Limits of Python's own for the digits of an integer that need no other; 0 is none."""


def parse_json(response: HTTPResponse, *, max_values: int = MAX_VALUES) -> object:
    """Return the JSON of a response, read strictly: no NaN, no infinity.

    Args:
        response: what came back.
        max_values: how many values it may hold: numbers, strings, lists, objects.

    Raises:
        InvalidResponse: it is not JSON, or holds NaN or an infinity.
        BackendError: it holds too many values, or nests them too deeply.
    """
    media_type = response.headers.get("content-type", "application/json").partition(";")[0].strip()
    if not media_type.lower().endswith(("/json", "+json")):
        raise InvalidResponse(
            f"the response is {media_type[:50]!r} instead of JSON; check `base_url`"
        )
    problem = "the response is not valid JSON"
    try:
        return _parse(_STRICT, response.content.decode(), max_values)
    except _NotFinite as exc:
        problem = (
            f"the response holds {exc}, which is no score; the model's numbers overflow there, so "
            "let the server compute in float32 or bfloat16"
        )
    except ValueError:  # also for bytes that are not UTF-8
        pass
    # Outside of the handler, because the parser's error holds the whole text.
    raise InvalidResponse(problem)


def parse_message(text: str) -> object:
    """Return the JSON of an error's page.

    Raises:
        ValueError: it is not JSON.
        BackendError: it holds too many values, or nests them too deeply.
    """
    return _parse(_LENIENT, text, MAX_VALUES)


def _parse(decoder: json.JSONDecoder, text: str, max_values: int) -> object:
    # Counted before they are built: two bytes of JSON may take a hundred of memory.
    values = text.count(",") + text.count("[") + text.count("{")
    if values > max_values and _holds_more(text, max_values):
        raise BackendError(f"the response holds more than {max_values} values")
    if sys.get_int_max_str_digits() not in _HARMLESS:
        decoder = _CAREFUL
    try:
        return decoder.decode(text)
    except RecursionError:
        pass
    raise BackendError("the response is nested too deeply")


def _holds_more(text: str, max_values: int) -> bool:
    """Whether more values than these stand in JSON: a comma in a string is none."""
    unescaped = text.replace("\\\\", "").replace('\\"', "")
    if unescaped.count('"') > 4 * max_values:  # each value may have a name, each string two quotes
        return True
    outside = "".join(unescaped.split('"')[::2])
    return sum(map(outside.count, ("[", "{", ","))) > max_values


class _NotFinite(ValueError):
    """A `NaN` or an infinity, by its name."""


def _reject(constant: str) -> NoReturn:
    raise _NotFinite(constant)


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError("too many digits")
    return int(digits)


_STRICT = json.JSONDecoder(parse_constant=_reject)
_LENIENT = json.JSONDecoder()
_CAREFUL = json.JSONDecoder(parse_constant=_reject, parse_int=_integer)
"""For processes that lifted Python's own limit: long integers take quadratic time."""
