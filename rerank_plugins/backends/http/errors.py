"""From an HTTP reply to its content, or to the one error that says what happened."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import NoReturn
from urllib.parse import urlsplit

from rerank_plugins.backends.http.responses import Reply
from rerank_plugins.errors import (
    AuthenticationError,
    BackendError,
    BackendOverloaded,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    InvalidResponse,
)

__all__ = ["complaint", "failure", "parsed"]

_LARGEST_ERROR = 2**20
_LONGEST = 200
_RECOGNISABLE = 8

_KEY_STATUSES = frozenset({401, 403, 498})
_BUSY_STATUSES = frozenset({429, 503})
_SLOW_STATUSES = frozenset({408, 504})
_MOVED_STATUSES = range(300, 400)
_ABSENT_STATUSES = frozenset({404, 405})
_TOO_LARGE_STATUSES = frozenset({413, 422})
_ALONE = 2  # the query and one document
_SERVER_ERRORS = 500
_FAILED_DEPENDENCY = 424
_FINAL_STATUSES = frozenset({501, 505})

# Xinference answers 429 to callers it has locked out for an hour.
_BANNED = re.compile("temporarily banned", re.IGNORECASE)
# Xinference and llama.cpp answer 500 to what will fail again, for whatever reason.
_FINAL = re.compile("validation error|too large to process", re.IGNORECASE)
# pydantic and FastAPI, printed as text, repeat the input they refuse.
_REPEATED_INPUT = re.compile(r"""(input_value=|["']input["']:).*""", re.DOTALL)
# HAProxy's pages have no title.
_TITLE = re.compile(r"<(title|h1)>(.*?)</\1>", re.IGNORECASE | re.DOTALL)
_WORDS = ("error", "detail", "message")


def parsed(reply: Reply) -> object:
    """Return the JSON of a reply, read strictly: no NaN, no infinity, no other type.

    Raises:
        InvalidResponse: it is not JSON.
        BackendError: it is nested too deeply.
    """
    media_type = reply.headers.get("content-type", "application/json").partition(";")[0].strip()
    if not media_type.lower().endswith(("/json", "+json")):
        raise InvalidResponse(f"the reply is {media_type[:50]!r} instead of JSON; check `base_url`")
    try:
        return _STRICT.decode(reply.content.decode())
    except RecursionError as exc:
        raise BackendError("the reply is nested too deeply") from exc
    except ValueError as exc:  # also for bytes that are no UTF-8, and for overlong numbers
        raise InvalidResponse("the reply is not valid JSON") from exc


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


_STRICT = json.JSONDecoder(parse_constant=_refuse)


def failure(
    reply: Reply, *, where: str, key: str, key_source: str, texts: Sequence[str], start: int = 0
) -> BackendError:
    """Return the error that a reply with a status outside 200 to 299 stands for.

    Args:
        reply: what came back.
        where: which server; the message starts with it.
        key: the key that was sent, or ""; it never gets into the message.
        key_source: where the key came from, in words.
        texts: the query, then the documents that were sent; a message that repeats one is dropped.
        start: the position of the first of them in the call.
    """
    status, raw = reply.status, _message(reply)
    said = _shown(raw, key=key, texts=texts)
    what = f"{where} answered {status}" + (f": {said}" if said else "")
    wait = _retry_after(reply.headers)
    if status in _KEY_STATUSES or (status in _BUSY_STATUSES and _BANNED.search(raw)):
        return AuthenticationError(f"{what}; {key_source}", status_code=status)
    later = f"; try again in {math.ceil(wait):g} s" if wait else ""
    if status in _BUSY_STATUSES:
        return BackendOverloaded(what + later, retry_after=wait)
    if status in _SLOW_STATUSES:
        return BackendTimeout(what + later, retry_after=wait)
    if status in _MOVED_STATUSES:
        host = _host(reply.headers.get("location", ""))
        what = f"{what}; it points to {host}, and redirects are not followed: correct `base_url`"
    elif status in _TOO_LARGE_STATUSES and len(texts) > _ALONE:
        what = f"{what}; it got {len(texts) - 1} documents, and `max_documents` sends fewer at once"
    elif status in _TOO_LARGE_STATUSES:
        size = sum(len(text.encode()) for text in texts)
        what = f"{what}; it got document {start} alone, {size} bytes with the query: shorten it"
    elif status in _ABSENT_STATUSES:
        what = f"{what}; check `base_url` and `model`"
    elif status == _FAILED_DEPENDENCY:  # TEI's model failed, perhaps on another caller's text
        return BackendError(what)
    elif status >= _SERVER_ERRORS and status not in _FINAL_STATUSES:
        if _FINAL.search(raw):
            return BackendError(what)
        return BackendUnavailable(what + later, retry_after=wait)
    return BackendRejected(what, status_code=status)


def complaint(reply: Reply, *, key: str, texts: Iterable[str]) -> str:
    """Return what a reply without scores says instead, quoted and cut, or an empty string."""
    return _shown(_message(reply), key=key, texts=texts)


def _message(reply: Reply) -> str:
    """Return the server's own words, in whichever of the usual forms they come."""
    if len(reply.content) > _LARGEST_ERROR:
        return ""
    text = reply.content.decode(errors="replace")
    try:
        return _words(json.loads(text))
    except RecursionError:
        return ""
    except ValueError:
        if title := _TITLE.search(text):
            return title[2]
        return "" if text.lstrip().startswith(("<", "{", "[")) else text


def _words(body: object) -> str:
    if isinstance(body, str):
        return body
    if isinstance(body, list):
        return "; ".join(filter(None, map(_words, body[:3])))
    if not isinstance(body, dict):
        return ""
    if isinstance(body.get("msg"), str):  # FastAPI; its `input` repeats ours
        place = ".".join(str(part) for part in body.get("loc") or ())
        return f"{place}: {body['msg']}" if place else body["msg"]
    return next(filter(None, (_words(body.get(key)) for key in _WORDS)), "")


def _shown(message: str, *, key: str, texts: Iterable[str]) -> str:
    """Return at most 200 characters of a message, escaped and quoted, without our own texts."""
    message = " ".join(_REPEATED_INPUT.sub("", message).split())
    if key:
        message = message.replace(key, "[key]")
    if not message or any(part in message for part in map(_beginning, texts) if part):
        return ""
    return f"'{repr(message[:_LONGEST])[1:-1][:_LONGEST]}'"


def _beginning(text: str) -> str:
    """Return enough of a text to know it again; "" if it is too short for that."""
    beginning = " ".join(text[:80].split())[:24]
    return beginning if len(beginning) >= _RECOGNISABLE else ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait; None if the server names none or writes nonsense."""
    if (milliseconds := _seconds(headers.get("retry-after-ms", ""))) is not None:  # Cohere's
        return milliseconds / 1000
    value = headers.get("retry-after", "")
    if (seconds := _seconds(value)) is not None:
        return seconds
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None


def _seconds(value: str) -> float | None:
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _host(location: str) -> str:
    try:
        return urlsplit(location).hostname or "another path"
    except ValueError:
        return "another place"
