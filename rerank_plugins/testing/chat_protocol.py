"""What chat servers answer when a model of theirs judges documents, for a `FakeServer`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from rerank_plugins.testing.fake_server import FakeResponse

__all__ = ["serve_chat", "serve_ollama"]

_MAX_LOGPROBS = 20
_FIELDS = frozenset(
    {"logprobs", "max_completion_tokens", "max_tokens", "messages", "model", "prompt", "seed"}
    | {"temperature", "top_logprobs"}
)
_OLLAMA_FIELDS = frozenset(
    {"logprobs", "messages", "model", "options", "prompt", "raw", "shift", "stream", "think"}
    | {"top_logprobs", "truncate"}
)
_PAIR = re.compile(
    r"<?Query>?: (?P<query>.*?)\n+<?Document>?: (?P<document>.*?)"
    r"(?:<\|im_end\|>|\n\nDoes this document)",
    re.DOTALL,
)
_NUMBERED = re.compile(r"^\[(\d+)\] (.*)$", re.MULTILINE)
_QUERY = re.compile(r"^Query: (.*)$", re.MULTILINE)
_LIKELIEST = 0.98
"""What the two words share; other tokens have the rest."""


def serve_chat(body: Any, score: Callable[[str, str], float]) -> FakeResponse:
    """Answer as a chat model that judges by `score`: by a word, or by an order."""
    if unexpected := sorted(body.keys() - _FIELDS):
        return _refuse(f"Unrecognized request argument supplied: {', '.join(unexpected)}")
    if body.get("logprobs") and body.get("top_logprobs", 0) > _MAX_LOGPROBS:
        return _refuse(f"top_logprobs must be at most {_MAX_LOGPROBS}")
    if "prompt" in body:
        return _complete(body["prompt"], score)
    text = "\n".join(message["content"] for message in body["messages"])
    content, top = _reply(text, score, judges=bool(body.get("logprobs")))
    logprobs = {"content": [{**top[0], "top_logprobs": top}]} if top else None
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": "stop"}
    return FakeResponse({"object": "chat.completion", "choices": [choice], "usage": _usage(text)})


def serve_ollama(body: Any, score: Callable[[str, str], float]) -> FakeResponse:
    """Answer as Ollama does by its own interfaces."""
    if unexpected := sorted(body.keys() - _OLLAMA_FIELDS):
        return _refuse(f"unexpected fields: {', '.join(unexpected)}")
    if body.get("stream", True) or body.get("truncate", True) or body.get("shift", True):
        return _refuse("lines instead of JSON come, or prompts are cut in silence")
    if "prompt" in body and not body.get("raw"):
        return _refuse("a template would stand around the prompt")
    messages = body.get("messages") or [{"content": body["prompt"]}]
    text = "\n".join(message["content"] for message in messages)
    content, top = _reply(text, score, judges=bool(body.get("logprobs")))
    answer: dict[str, Any] = {"response": content}
    if "messages" in body:
        answer = {"message": {"role": "assistant", "content": content}}
    if top:
        answer["logprobs"] = [{**top[0], "top_logprobs": top}]
    counts = {"prompt_eval_count": len(text.split()), "eval_count": 1}
    return FakeResponse({"model": body["model"], "done": True, **answer, **counts})


def _reply(
    text: str, score: Callable[[str, str], float], *, judges: bool
) -> tuple[str, list[dict[str, Any]]]:
    """Return what a model says, and the likeliest first tokens if it judges by them."""
    if judges:
        top = _tokens(_judge(text, score))
        return str(top[0]["token"]), top
    documents = [(int(number), document) for number, document in _NUMBERED.findall(text)]
    (query,) = _QUERY.findall(text)
    best = sorted(documents, key=lambda document: -score(query, document[1]))
    return " > ".join(f"[{number}]" for number, _ in best), []


def _complete(prompt: str, score: Callable[[str, str], float]) -> FakeResponse:
    top = _tokens(_judge(prompt, score))
    tokens = {item["token"]: item["logprob"] for item in top}
    logprobs = {
        "tokens": [top[0]["token"]],
        "token_logprobs": [top[0]["logprob"]],
        "top_logprobs": [tokens],
        "text_offset": [0],
    }
    choice = {"index": 0, "text": top[0]["token"], "logprobs": logprobs, "finish_reason": "length"}
    return FakeResponse({"choices": [choice], "usage": _usage(prompt)})


def _judge(text: str, score: Callable[[str, str], float]) -> float:
    found = _PAIR.search(text)
    if found is None:
        raise ValueError("the prompt holds no query and document")
    return min(max(score(found["query"], found["document"]), 1e-9), 1 - 1e-9)


def _tokens(probability: float) -> list[dict[str, Any]]:
    """Return the likeliest tokens, the likeliest first."""
    likely = {"yes": _LIKELIEST * probability, "no": _LIKELIEST * (1 - probability), "I": 0.01}
    tokens = [
        {"token": token, "logprob": math.log(value), "bytes": [*token.encode()]}
        for token, value in likely.items()
    ]
    return sorted(tokens, key=lambda token: -float(str(token["logprob"])))


def _usage(prompt: str) -> dict[str, int]:
    count = len(prompt.split())
    return {"prompt_tokens": count, "completion_tokens": 1, "total_tokens": count + 1}


def _refuse(message: str) -> FakeResponse:
    return FakeResponse({"error": {"message": message, "type": "invalid_request_error"}}, 400)
