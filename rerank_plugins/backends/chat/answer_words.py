"""From the log-probabilities of an answer's first token to a logit: yes against no."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rerank_plugins.errors import BackendRejected, InvalidResponse

__all__ = ["AnswerWords"]

_LOWEST = -10_000.0
"""What stands for a probability of 0, for which servers send any large number."""
_ROUNDING = 1e-3
_THOUGHTS = ("reasoning", "reasoning_content", "thinking")
_NO_LOGPROBS = (
    "the response holds no log-probabilities, which pointwise judging needs: Ollama sends them "
    "from 0.12.11 on, if asked as the kind 'ollama'; LM Studio and some vendors never do. Set "
    "mode='listwise', or use another server; if it sends them for other texts, the model ended its "
    "answer at once, or began with a part of a character: check `template`"
)


@dataclass(frozen=True, slots=True)
class AnswerWords:
    """The two words that a model may answer, and how their tokens are spelled."""

    true: str
    false: str
    exact: bool = False
    """Whether only the token spelled just so counts; else letter case and space do not matter,
    and the probabilities of all spellings add up."""

    def logit(self, body: object) -> float:
        """Return ln p(true) - ln p(false) for the first token of the answer in a response.

        Its sigmoid is p(true) / (p(true) + p(false)). A server sends the likeliest tokens only. If
        one word is not among them, it is no likelier than the last of them, nor than all that
        they leave: that bound stands for it, so the exact score is at least as far from 0.5.

        Raises:
            BackendRejected: the response holds no log-probabilities.
            InvalidResponse: neither word is among the likeliest tokens, or what the response holds
                can't be read.
        """
        tokens = _first_token(body)
        true, false = self._logprob(self.true, tokens), self._logprob(self.false, tokens)
        if true is None and false is None:
            raise InvalidResponse(
                f"neither {self.true!r} nor {self.false!r} is among the {len(tokens)} likeliest "
                f"tokens of the answer{self._hint(body)}"
            )
        bound = _bound(tokens)
        return (bound if true is None else true) - (bound if false is None else false)

    def _logprob(self, word: str, tokens: Mapping[str, float]) -> float | None:
        if self.exact:
            return tokens.get(word)
        plain = word.strip().casefold()
        found = [value for token, value in tokens.items() if token.strip().casefold() == plain]
        return _sum(found) if found else None

    def _hint(self, body: object) -> str:
        if _thinks(body):
            return (
                "; the model thinks before it answers: switch that off, as in extra_body = "
                '{reasoning_effort = "none"} or {chat_template_kwargs = {enable_thinking = false}}'
            )
        return "; check `template`, `true_token` and `false_token`, or use a larger model"


def _bound(tokens: Mapping[str, float]) -> float:
    """Return the highest log-probability that a token can have which is not among the likeliest."""
    left = 1.0 - math.fsum(math.exp(value) for value in tokens.values())
    least = min(tokens.values())
    return max(min(least, math.log(left)) if left > 0 else least, _LOWEST)


def _sum(logprobs: list[float]) -> float:
    """Return the logarithm of the sum of probabilities."""
    highest = max(logprobs)
    return highest + math.log(math.fsum(math.exp(value - highest) for value in logprobs))


def _first_token(body: object) -> dict[str, float]:
    """Return the likeliest first tokens of the answer, with their log-probabilities.

    One reader for three layouts: chat's `choices[0].logprobs.content[0].top_logprobs`, a list of
    objects, which llama.cpp sends for completions too; completions' `logprobs.top_logprobs[0]`,
    an object; and Ollama's own `logprobs[0].top_logprobs` beside the answer.
    """
    logprobs = _child(_choice(body), "logprobs")
    if logprobs is None:
        logprobs = _child(body, "logprobs")
    content = logprobs if isinstance(logprobs, list) else _child(logprobs, "content")
    if not content and isinstance(listed := _child(logprobs, "top_logprobs"), list) and listed:
        content = [{"top_logprobs": listed[0]}]
    answered = _choice(body) or _child(body, "message") or _child(body, "response") is not None
    if not content and not answered:
        raise InvalidResponse("no answer of a model")
    if not content:
        raise BackendRejected(_NO_LOGPROBS)
    first = content[0] if isinstance(content, list) else None
    top = _child(first, "top_logprobs")
    if isinstance(top, dict):
        pairs = list(top.items())
    elif isinstance(top, list):
        pairs = [(_child(item, "token"), _child(item, "logprob")) for item in top]
    else:
        pairs = []
    if not pairs:
        raise InvalidResponse("the log-probabilities hold no list of the likeliest tokens")
    tokens: dict[str, float] = {}
    for token, value in pairs:
        if not isinstance(token, str) or type(value) not in (int, float):
            raise InvalidResponse("a log-probability is not a number beside the text of its token")
        number = _fraction(value)
        if not number <= _ROUNDING:
            raise InvalidResponse(f"a log-probability is {number:.6g}, above 0")
        logprob = max(min(number, 0.0), _LOWEST)
        # Several tokens may be spelled alike, such as parts of one character.
        tokens[token] = _sum([tokens[token], logprob]) if token in tokens else logprob
    return tokens


def _fraction(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer may be larger than any fraction
        return math.inf if value > 0 else -math.inf


def _thinks(body: object) -> bool:
    message = _child(_choice(body), "message") or _child(body, "message")
    if any(_child(message, name) or _child(body, name) for name in _THOUGHTS):
        return True
    text = _child(message, "content") or _child(_choice(body), "text") or _child(body, "response")
    return isinstance(text, str) and text.lstrip().startswith("<think")


def _choice(body: object) -> object:
    choices = _child(body, "choices")
    return choices[0] if isinstance(choices, list) and choices else None


def _child(body: object, name: str) -> object:
    return body.get(name) if isinstance(body, dict) else None
