"""The protocols of chat servers, as dialects: a request judges one document or orders several."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

from rerank_plugins.backends.chat.answer_words import AnswerWords
from rerank_plugins.backends.chat.permutation import read_permutation
from rerank_plugins.backends.chat.prompts import RANKER, judge_messages, ranker_messages
from rerank_plugins.backends.http.decoding import decode_count, decode_usage
from rerank_plugins.backends.http.dialect import Dialect, Fields
from rerank_plugins.backends.http.text_prompt import TextPrompt
from rerank_plugins.errors import ConfigError, InvalidResponse
from rerank_plugins.scores import Usage

__all__ = ["API", "SERVERS", "ChatServer", "judge_dialect", "ranker_dialect"]

API: TypeAlias = Literal["chat", "completions"]
"""Messages, around which the server writes the prompt of its model; or a prompt as it is."""

_TOKEN_LIMITS = ("max_tokens", "max_completion_tokens")
"""Older servers know the first alone; OpenAI refuses the first, or both together."""
_VALUES_PER_TOKEN = 160
"""In a response: a token, its probability, and each of its bytes; some are 128 spaces."""
_SAMPLING: Fields = {"temperature": 0, "seed": 0}
"""So that an answer is the same each time, as far as the server can."""


@dataclass(frozen=True, kw_only=True)
class ChatServer:
    """A kind of chat server."""

    name: str
    """As in a spec."""
    base_url: str | None
    """The vendor's own address; None where users run the server themselves."""
    key_variables: tuple[str, ...]
    """Environment variables that usually hold the key."""
    paths: Mapping[API, str] = field(default_factory=dict)
    """Where requests go, below the base URL."""
    is_ollama: bool = False
    """Whether requests are those of Ollama's own. By OpenAI's it cuts prompts that are too long,
    from their beginning and in silence, writes its model's prompt around a prompt, and sends no
    log-probabilities of completions."""


SERVERS: Mapping[str, ChatServer] = {
    # [run: llama.cpp of 2026-10; vLLM's, SGLang's and LM Studio's pages and trackers]
    "openai": ChatServer(
        name="openai",
        base_url="https://api.openai.com",
        key_variables=("OPENAI_API_KEY",),
        paths={"chat": "/v1/chat/completions", "completions": "/v1/completions"},
    ),
    # [its own pages and tracker; log-probabilities from 0.12.11 on]
    "ollama": ChatServer(
        name="ollama",
        base_url=None,
        key_variables=("OLLAMA_API_KEY",),
        paths={"chat": "/api/chat", "completions": "/api/generate"},
        is_ollama=True,
    ),
}


class _Layout(NamedTuple):
    """The fields of a request, but for those that hold the texts."""

    fixed: Fields
    always: Fields
    """What a server that does not know it may do without."""
    one_of: tuple[str, ...] = ()
    """Those of `always` of which one must stay."""


def judge_dialect(
    server: ChatServer,
    *,
    api: API,
    prompt: TextPrompt,
    words: AnswerWords,
    top_logprobs: int,
    max_characters: int,
    own_address: bool,
    extra_body: Mapping[str, object],
) -> Dialect:
    """Return the protocol of requests that judge one document each by the first token answered.

    Args:
        server: which server.
        api: which of its interfaces.
        prompt: what stands around the query and the document.
        words: what may be answered.
        top_logprobs: how many of the likeliest tokens to ask for.
        max_characters: where to cut a document.
        own_address: whether the vendor's own service is called.
        extra_body: fields that the user adds to each request.

    Raises:
        ConfigError: `extra_body` holds an option that is set here.
    """
    asked = judge_messages("", true=words.true, false=words.false) if api == "chat" else None
    content = partial(_judge_messages, words) if api == "chat" else _judge_prompt
    if server.is_ollama:
        # Nothing is filtered: older versions tell the probabilities of what the sampler leaves.
        # Which token is drawn does not matter, since only these are read.
        options = {"num_predict": 1, "temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0}
        layout = _for_ollama(options, top_logprobs, raw=api == "completions")
    elif api == "chat":
        layout = _for_chat(1, top_logprobs, own_address=own_address)
    else:
        layout = _Layout({"max_tokens": 1, "logprobs": top_logprobs}, _SAMPLING)
    spelling = {} if words.exact else {"spelling": "any"}
    return Dialect(
        **_common(server, api, layout, extra_body),
        scale="logit",
        max_documents=1,
        max_characters=max_characters,
        shape=partial(_lay_out, content, _with_extra(layout.fixed, extra_body)),
        prompt=prompt,
        values_per_document=_VALUES_PER_TOKEN * (top_logprobs + 1),
        decode=partial(_read_logit, words),
        facts={
            "mode": "pointwise",
            "api": api,
            "template": _digest(prompt, asked),
            "words": f"{words.true},{words.false}",
            "top_logprobs": str(top_logprobs),  # of a word that is not among them, the bound
            **spelling,
        },
    )


def ranker_dialect(
    server: ChatServer,
    *,
    max_tokens: int,
    max_characters: int,
    own_address: bool,
    extra_body: Mapping[str, object],
) -> Dialect:
    """Return the protocol of requests that put the documents in them in order.

    A document's score is how many documents stand behind it, those that the answer does not name
    in the order they had. All are 0 if the answer names none.

    Args:
        server: which server.
        max_tokens: most tokens of an answer.
        max_characters: where to cut a document.
        own_address: whether the vendor's own service is called.
        extra_body: fields that the user adds to each request.

    Raises:
        ConfigError: `extra_body` holds an option that is set here.
    """
    prompt = TextPrompt(RANKER)
    if server.is_ollama:
        chosen = extra_body.get("options")
        names = chosen if isinstance(chosen, Mapping) else ()
        usual = {name: value for name, value in _SAMPLING.items() if name not in names}
        layout = _for_ollama({"num_predict": max_tokens, **usual}, None, raw=False)
    else:
        layout = _for_chat(max_tokens, None, own_address=own_address)
    return Dialect(
        **_common(server, "chat", layout, extra_body),
        scale="unknown",
        max_characters=max_characters,
        shape=partial(_lay_out, _rank_messages, _with_extra(layout.fixed, extra_body)),
        prompt=prompt,
        decode=_read_order,
        facts={"mode": "listwise", "template": _digest(prompt, ranker_messages("", ["", ""]))},
    )


def _common(server: ChatServer, api: API, layout: _Layout, extra: Fields) -> dict[str, Any]:
    """Return what both protocols have in common."""
    return {
        "name": server.name,
        "path": server.paths[api],
        "base_url": server.base_url,
        "key_variables": server.key_variables,
        "blank": "",
        "always": {name: value for name, value in layout.always.items() if name not in extra},
        "one_of": layout.one_of,
        "usage": _usage,
    }


def _for_chat(max_tokens: int, top_logprobs: int | None, *, own_address: bool) -> _Layout:
    limits = _TOKEN_LIMITS[1:] if own_address else _TOKEN_LIMITS
    fixed = {"logprobs": True, "top_logprobs": top_logprobs} if top_logprobs else {}
    return _Layout(fixed, {**dict.fromkeys(limits, max_tokens), **_SAMPLING}, limits)


def _for_ollama(options: Fields, top_logprobs: int | None, *, raw: bool) -> _Layout:
    # A prompt that is too long is then an error, and not one without its beginning.
    fixed: dict[str, object] = {"stream": False, "truncate": False, "shift": False}
    fixed |= {"raw": True} if raw else {}
    fixed |= {"logprobs": True, "top_logprobs": top_logprobs} if top_logprobs else {}
    fixed["options"] = options
    return _Layout(fixed, {})


def _with_extra(fixed: Fields, extra: Fields) -> Fields:
    """Return both; Ollama's `options` are those of both, too.

    Raises:
        ConfigError: an option of the user's would be overwritten.
    """
    merged = {**fixed, **extra}
    own, others = fixed.get("options"), extra.get("options")
    if isinstance(own, Mapping) and isinstance(others, Mapping):
        if both := sorted(own.keys() & others.keys()):
            raise ConfigError(
                f"`options` in `extra_body` can't set {both[0]!r}: the backend sets it itself"
            )
        merged["options"] = {**others, **own}
    return merged


def _digest(prompt: TextPrompt, messages: object) -> str:
    """Return a short text that differs for all that a model may be told."""
    return hashlib.sha256(f"{prompt.digest} {messages!r}".encode()).hexdigest()[:12]


def _lay_out(
    content: Callable[[str, Sequence[str]], Fields],
    fields: Fields,
    query: str,
    documents: Sequence[str],
) -> Fields:
    return {**content(query, documents), **fields}


def _judge_messages(words: AnswerWords, query: str, documents: Sequence[str]) -> Fields:
    text = query + documents[0]
    return {"messages": judge_messages(text, true=words.true, false=words.false)}


def _judge_prompt(query: str, documents: Sequence[str]) -> Fields:
    return {"prompt": query + documents[0]}


def _rank_messages(query: str, documents: Sequence[str]) -> Fields:
    return {"messages": ranker_messages(query, documents)}


def _read_logit(words: AnswerWords, body: object, count: int) -> list[float]:  # noqa: ARG001  # a dialect's
    return [words.logit(body)]


def _read_order(body: object, count: int) -> list[float]:
    named = read_permutation(_answer(body), count)
    if not named:
        return [0.0] * count
    rest = sorted({*range(count)} - {*named})
    scores = [0.0] * count
    for rank, position in enumerate([*named, *rest]):
        scores[position] = float(count - 1 - rank)
    return scores


def _answer(body: object) -> str:
    """Return the text that a model answered; "" if it refused, or answered otherwise.

    Raises:
        InvalidResponse: that is no response of a chat server.
    """
    fields = body if isinstance(body, dict) else {}
    choices = [fields] if "message" in fields else fields.get("choices")
    if not isinstance(choices, list):
        raise InvalidResponse("no list of choices")
    first = choices[0] if choices else None
    message = first.get("message") if isinstance(first, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):  # parts
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _usage(body: object) -> Usage | None:
    """Return the tokens of prompt and answer; Ollama's own interface counts them apart."""
    if usage := decode_usage(body):
        return usage
    counts = (decode_count(body, "prompt_eval_count"), decode_count(body, "eval_count"))
    known = [count for count in counts if count is not None]
    return Usage(sum(known)) if known else None
