"""From an HTTP response outside 200 to 299 to the one error that says what happened."""

from __future__ import annotations

import math
import re
import string
import time
from collections.abc import Iterable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from rerank_plugins.backends.http.credentials import Key
from rerank_plugins.backends.http.proxies import GO_AROUND
from rerank_plugins.backends.http.reading import parse_message
from rerank_plugins.backends.http.responses import HTTPResponse
from rerank_plugins.errors import (
    AuthenticationError,
    BackendError,
    BackendOverloaded,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
)

__all__ = ["quote", "quote_message", "status_error", "via_proxy"]

_MAX_MESSAGE = 200
_MAX_MASKED = 20 * _MAX_MESSAGE
"""How much of a message is searched for what must not be quoted."""
_MAX_HEADER = 100
_MIN_PREFIX = 8
"""Fewer characters of a text may stand in any message by chance."""

_KEY_STATUSES = frozenset({401, 403, 498})
_OVERLOADED_STATUSES = frozenset({429, 503})
_TIMEOUT_STATUSES = frozenset({408, 504})
_REDIRECT_STATUSES = range(300, 400)
_HINTS = {
    **dict.fromkeys((404, 405), "check `base_url` and `model`"),
    407: "that is a proxy: correct its user and password",
}
_TOO_LARGE_STATUSES = frozenset({413, 422})
_FIELD_STATUSES = frozenset({400, 422})
_SERVER_ERRORS = 500
_PROXY_REFUSES = 407
_GATEWAY_STATUSES = frozenset({502, 503, 504})
_FAILED_DEPENDENCY = 424
_NEVER_SUPPORTED_STATUSES = frozenset({501, 505})

# Xinference answers 429 to callers that it has locked out for an hour.
_LOCKED_OUT = re.compile("temporarily banned", re.IGNORECASE)
# Xinference and llama.cpp answer 500 to requests that will fail again.
_PERMANENT = re.compile("validation error|too large to process", re.IGNORECASE)
# pydantic and FastAPI, printed as text, repeat the input that they refuse.
_REPEATED_INPUT = re.compile(r"""(input_value=|["']input["']:).*""", re.DOTALL)
# HAProxy's pages have no title.
_TITLES = ("title", "h1")
_LOWERED = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
"""`str.lower()` may change the length of a text."""
_MESSAGE_FIELDS = frozenset(
    {"cause", "description", "detail", "error", "error_description", "error_message", "error_msg"}
    | {"errormessage", "errors", "fault", "faultstring", "message", "msg", "reason", "reasons"}
    | {"result", "title"}
)
"""Where servers write a reason, in small letters."""
_ABOUT_FIELDS = re.compile(
    r"(field|parameter|property|argument)s? (is |are )?(required|missing)|is required|required prop"
    r"|'required' tag|(must|may|can) ?not be (null|empty|blank)"
    r"|must be (given|provided|set|specified)"
    r"|(missing|unknown|unexpected|unrecogni[sz]ed|extra|invalid|no such) .{0,12}"
    r"(field|parameter|propert|argument|input|key)|not permitted|valid (string|list|integer|dict)",
    re.IGNORECASE,
)
_WANTS_TOP_N = re.compile(r"\btop_n\b", re.IGNORECASE)


def status_error(
    response: HTTPResponse,
    *,
    where: str,
    key: Key,
    query: Sequence[str] = (),
    documents: Sequence[str] = (),
    start: int = 0,
) -> BackendError:
    """Return the error that a status outside 200 to 299 stands for.

    Args:
        response: what came back.
        where: which server; the message starts with it.
        key: the key that was sent; the message masks it.
        query: the texts of the query that were sent.
        documents: the documents that were sent. A message that repeats any of these is dropped.
        start: the position of the first document in the call.
    """
    status, message = response.status, _message(response)
    # A proxy may repeat its password, which is not ours and so not masked.
    quotable = "" if status == _PROXY_REFUSES else message
    quoted = quote(quotable, key=key, texts=[*query, *documents])
    what = f"{where} answered {status}" + (f": {quoted}" if quoted else "") + via_proxy(response)
    retry_after = _retry_after(response.headers)
    if status in _KEY_STATUSES or (status in _OVERLOADED_STATUSES and _LOCKED_OUT.search(message)):
        return AuthenticationError(f"{what}; {key.source}", status_code=status)
    later = f"; try again in {math.ceil(retry_after):g} s" if retry_after else ""
    if status in _OVERLOADED_STATUSES:
        return BackendOverloaded(what + later, retry_after=retry_after)
    if status in _TIMEOUT_STATUSES:
        return BackendTimeout(what + later, retry_after=retry_after)
    if status in _REDIRECT_STATUSES:
        host = _host(response.headers.get("location", ""), key)
        what = f"{what}; it points to {host}, and redirects are not followed: correct `base_url`"
    elif status in _FIELD_STATUSES and _ABOUT_FIELDS.search(message):
        demands = _WANTS_TOP_N.search(message)
        what += "; set `send_top_n`" if demands else "; check that it is a server of this kind"
    elif status in _TOO_LARGE_STATUSES and len(documents) > 1:
        what = (
            f"{what}; it got {len(documents)} documents; set `max_documents` to send fewer at once"
        )
    elif status in _TOO_LARGE_STATUSES:
        size = sum(len(text.encode()) for text in (*query, *documents))
        what = f"{what}; it got document {start} alone, {size} bytes with the query; shorten it"
    elif hint := _hint(response):
        what = f"{what}; {hint}"
    elif status == _FAILED_DEPENDENCY:  # TEI's model failed, perhaps on the text of another caller
        return BackendError(what)
    elif status >= _SERVER_ERRORS and status not in _NEVER_SUPPORTED_STATUSES:
        if _PERMANENT.search(message):
            return BackendError(what)
        return BackendUnavailable(what + later, retry_after=retry_after)
    return BackendRejected(what, status_code=status)


def _hint(response: HTTPResponse) -> str | None:
    if response.status == _PROXY_REFUSES and response.proxy is not None:
        return f"that is {response.proxy.words}: {response.proxy.wrong_user}"
    return _HINTS.get(response.status)


def via_proxy(response: HTTPResponse) -> str:
    """Return words about the proxy that may have answered itself; "" if none did."""
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = media_type.endswith(("/json", "+json"))
    if response.proxy is None or response.status == _PROXY_REFUSES:
        return ""
    if is_json and response.status not in _GATEWAY_STATUSES:
        return ""
    return f" (through {response.proxy.words}, which may have answered itself; {GO_AROUND})"


def quote_message(response: HTTPResponse, *, key: Key, texts: Iterable[str]) -> str:
    """Return the server's message, quoted and cut; "" if there is none to quote."""
    return quote(_message(response), key=key, texts=texts)


def _message(response: HTTPResponse) -> str:
    """Return the server's own message, in whichever usual form it comes."""
    text = response.content.decode(errors="replace")
    try:
        return _json_message(parse_message(text))
    except (BackendError, RecursionError):
        return ""
    except ValueError:
        if title := _title(text):
            return title
        return "" if text.lstrip().startswith(("<", "{", "[")) else text


def _title(page: str) -> str:
    """Return the title of an HTML page; "" if it has none. Takes linear time."""
    lowered = page.translate(_LOWERED)
    for name in _TITLES:
        start = lowered.find(f"<{name}>")
        end = lowered.find(f"</{name}>", start)
        if 0 <= start < end:
            return page[start + len(name) + 2 : end]
    return ""


def _json_message(body: object) -> str:
    if isinstance(body, str):
        return _unwrapped(body)
    if isinstance(body, list):
        return "; ".join(filter(None, map(_json_message, body[:3])))
    if not isinstance(body, dict):
        return ""
    if isinstance(body.get("msg"), str):  # FastAPI; its `input` repeats ours
        place = body.get("loc")
        location = ".".join(map(str, place)) if isinstance(place, list) else ""
        return f"{location}: {body['msg']}" if location else body["msg"]
    # The longest: beside the reason there may be a code, a title or the name of the status.
    named = (value for name, value in body.items() if name.lower() in _MESSAGE_FIELDS)
    return max((_json_message(value) or _by_field(value) for value in named), key=len, default="")


def _unwrapped(text: str) -> str:
    """Return the reason in a text that is JSON itself, as gateways pass it on."""
    if not text.startswith("{"):
        return text
    try:
        return _json_message(parse_message(text)) or text
    except (BackendError, ValueError):
        return text


def _by_field(errors: object) -> str:
    """Return the reasons in an object that has them under the names of the wrong fields.

    Names of reasons are left out: `_json_message` found nothing there, and to look again at each
    level would double the work with each.
    """
    if not isinstance(errors, dict):
        return ""
    others = ((n, value) for n, value in [*errors.items()][:3] if n.lower() not in _MESSAGE_FIELDS)
    reasons = ((name, _json_message(value)) for name, value in others)
    return "; ".join(f"{name}: {reason}" for name, reason in reasons if reason)


def quote(message: str, *, key: Key, texts: Iterable[str]) -> str:
    """Return at most 200 characters of a message, escaped and quoted; "" if it repeats our texts.

    Args:
        message: what a server wrote.
        key: the key that was sent; it is masked.
        texts: the query and the documents that were sent.
    """
    message = " ".join(_REPEATED_INPUT.sub("", message).split())[:_MAX_MASKED]
    if any(prefix in message for prefix in map(_prefix, texts) if prefix):
        return ""
    message = key.mask(message)  # first, since a part of a key is cut off from what shows it
    return f"'{repr(message[:_MAX_MESSAGE])[1:-1][:_MAX_MESSAGE]}'" if message else ""


def _prefix(text: str) -> str:
    """Return enough of a text to recognise it; "" if the text is too short for that."""
    prefix = " ".join(text[:80].split())[:24]
    return prefix if len(prefix) >= _MIN_PREFIX else ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait; None if the server names none, or none that makes sense."""
    if (milliseconds := _seconds(headers.get("retry-after-ms", ""))) is not None:  # Cohere's
        return milliseconds / 1000
    value = headers.get("retry-after", "")
    if len(value) > _MAX_HEADER:
        return None
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


def _host(location: str, key: Key) -> str:
    try:
        host = urlsplit(location).hostname
    except ValueError:
        return "what is no URL"
    return quote(host, key=key, texts=()) if host else "another path"
