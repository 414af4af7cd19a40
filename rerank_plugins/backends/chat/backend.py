"""`ChatBackend`: a chat model judges documents, one by one or several in order."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from rerank_plugins._internal import context as _context
from rerank_plugins._internal import flow
from rerank_plugins._internal.checks import check_choice, check_integer
from rerank_plugins._internal.options import changed_options, unknown
from rerank_plugins._internal.parallel import side_by_side
from rerank_plugins._internal.secret import Secret
from rerank_plugins.backend import UNCALIBRATED, Backend, ServerCheck
from rerank_plugins.backends.chat.answer_words import AnswerWords
from rerank_plugins.backends.chat.dialects import API, SERVERS, judge_dialect, ranker_dialect
from rerank_plugins.backends.chat.prompts import JUDGE
from rerank_plugins.backends.chat.sliding_window import count_windows, slide
from rerank_plugins.backends.http.backend import HTTPBackend
from rerank_plugins.backends.http.dialect import Dialect
from rerank_plugins.backends.http.text_prompt import TextPrompt
from rerank_plugins.backends.prompt_templates import TEMPLATES, Prompt, check_template
from rerank_plugins.content import Document, Query, Requests, check_request
from rerank_plugins.errors import (
    ConfigError,
    InvalidResponse,
    RerankError,
    UnsupportedInputError,
)
from rerank_plugins.scores import Scores, Usage

__all__ = ["ChatBackend"]

_log = logging.getLogger(__name__)

_POINTWISE_ONLY = ("api", "template", "true_token", "false_token", "top_logprobs")
_LISTWISE_ONLY = ("window", "step", "max_documents", "max_tokens")
_MAX_CHARACTERS = {"pointwise": 6_000, "listwise": 2_000}
"""Ollama's contexts are of 4,096 tokens unless told, and a Chinese character may be one."""
_TOKENS_PER_DOCUMENT, _MORE_TOKENS = 8, 32
"""How long an order may become: its numbers, brackets and signs, and some words."""
_MAX_LISTED = 20
_SETS_ITSELF = frozenset(
    {"logprobs", "max_completion_tokens", "max_tokens", "messages", "model", "n"}
    | {"prompt", "raw", "stream", "top_logprobs"}
)

_Windows: TypeAlias = Generator[tuple["str | Query", Sequence[Document]], Scores, Scores]


class ChatBackend(Backend):
    """Scores documents with a language model behind a chat or completions server.

    *Pointwise*, the model is asked about each document in a request of its own, and the
    probabilities of two answer words make the score: p(true) / (p(true) + p(false)). The answer
    itself is never read. Servers tell the probabilities of the likeliest tokens only: a word that
    is not among them gets the highest that it can have, and if both are missing the call fails.

    *Listwise*, the model puts up to `window` documents in order, from the end of the list to its
    beginning. The scores tell that order and nothing else: 1 for the first of n, then 1/n less for
    each. Documents that an answer does not name follow those that it names; if no answer of a call
    names any, the call fails.

    Args:
        base_url: where the server is, such as `"http://gpu:8000"`; it may end in `/v1`. None is
            OpenAI's own address.
        server: its kind: `"openai"` for all that speak OpenAI's protocol, or `"ollama"`.
        endpoints: instead of `base_url`, the URLs of several servers of one model.
        model: the model's name on the server.
        mode: `"pointwise"` or `"listwise"`.
        api: `"chat"`, where the server writes the prompt of its model around the messages, or
            `"completions"`, where `template` is the whole prompt. None is completions for a
            template that is known by name, else chat.
        template: the prompt of a model that was trained to rerank, by its name, such as
            `"qwen3-reranker"`; or a text with `{query}` and then `{document}`, and maybe
            `{instruction}`. None is a question that any chat model understands.
        true_token: the word for a relevant document, one token; needs `false_token`.
        false_token: the word for another.
        top_logprobs: how many of the likeliest tokens to ask for; many servers allow 20.
        instruction: what the model should look for.
        window: listwise: maximum documents in a request.
        step: listwise: by how many documents the next window stands before the last one.
        max_documents: listwise: maximum documents of a call, which bounds its requests.
        max_tokens: listwise: most tokens of an answer; None is enough for the numbers of a window.
            Models that think first need more.
        max_characters: where to cut a document; None is 6,000, listwise 2,000.
        extra_body: fields to add to each request, such as `{"think": False}`. Those of Ollama's
            `options` are added to ours; one that the backend needs for itself is refused.
        scale: pointwise: probabilities from 0 to 1, or the logits of which they are the sigmoid.
        api_key: see `HTTPBackend`, as for all that follow.
        api_key_env: the environment variable that holds the key; None is `OPENAI_API_KEY`, for
            Ollama `OLLAMA_API_KEY`.
        timeout: seconds for a whole call with all its requests.
        connect_timeout: seconds to wait for a connection.
        max_parallel: maximum requests of one call in flight at the same time.
        headers: headers to send with each request.
        verify: whether to check the server's certificate, or the CA file or folder to trust.

    Raises:
        ConfigError: an option is out of range, missing, or not for this mode.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        server: Literal["openai", "ollama"] = "openai",
        endpoints: Sequence[str] | None = None,
        model: str | None = None,
        mode: Literal["pointwise", "listwise"] = "pointwise",
        api: API | None = None,
        template: str | None = None,
        true_token: str | None = None,
        false_token: str | None = None,
        top_logprobs: int = 20,
        instruction: str | None = None,
        window: int = 20,
        step: int = 10,
        max_documents: int = 100,
        max_tokens: int | None = None,
        max_characters: int | None = None,
        extra_body: Mapping[str, object] | None = None,
        scale: Literal["probability", "logit"] = "probability",
        api_key: str | None = None,
        api_key_env: str | None = None,
        timeout: float = 60.0,
        connect_timeout: float = 2.0,
        max_parallel: int = 4,
        headers: Mapping[str, str] | None = None,
        verify: bool | str | Path = True,
    ) -> None:
        key = None if api_key is None else Secret(api_key)
        api_key = None  # no frame shows it any more
        check_choice("server", server, tuple(SERVERS))
        check_choice("mode", mode, ("pointwise", "listwise"))
        check_choice("api", api, get_args(API), optional=True)
        check_choice("scale", scale, ("probability", "logit"))
        check_integer("top_logprobs", top_logprobs)
        check_integer("window", window, least=2)
        check_integer("step", step)
        check_integer("max_documents", max_documents)
        check_integer("max_tokens", max_tokens, optional=True)
        check_integer("max_characters", max_characters, optional=True)
        self._server, self._base_url = server, base_url
        self._endpoints = None if endpoints is None else list(endpoints)
        self._model, self._mode, self._api, self._template = model, mode, api, template
        self._true_token, self._false_token = true_token, false_token
        self._top_logprobs, self._instruction = top_logprobs, instruction
        self._window, self._step, self._max_documents = window, step, max_documents
        self._max_tokens, self._max_characters = max_tokens, max_characters
        self._extra_body = None if extra_body is None else dict(extra_body)
        self._scale, self._api_key_env, self._timeout = scale, api_key_env, timeout
        self._connect_timeout, self._max_parallel = connect_timeout, max_parallel
        self._headers = None if headers is None else dict(headers)
        self._verify = str(verify) if isinstance(verify, Path) else verify
        self._check_mode()
        self._requests = HTTPBackend(
            _without_version(base_url) if server == "ollama" else base_url,
            dialect=self._dialect(),
            endpoints=[_without_version(url) for url in endpoints]
            if server == "ollama" and endpoints and not isinstance(endpoints, str)
            else endpoints,
            model=model,
            api_key=key,
            api_key_env=api_key_env,
            timeout=timeout,
            connect_timeout=connect_timeout,
            scale=scale,
            server_scale="logit" if mode == "pointwise" else "unknown",
            max_parallel=max_parallel,
            listwise=mode == "listwise",
            instruction=instruction,
            headers=headers,
            verify=verify,
        )
        self.scale = self._requests.scale
        self.cacheable = self.pointwise = mode == "pointwise"
        self.instructions = self._requests.instructions

    def _check_mode(self) -> None:
        others = _LISTWISE_ONLY if self._mode == "pointwise" else _POINTWISE_ONLY
        for name in self._changed(others):
            raise ConfigError(f"`{name}` is not for mode={self._mode!r}; remove it")
        if self._mode == "listwise" and self._scale == "logit":
            raise ConfigError("an order has no logits; remove scale='logit' or mode='listwise'")
        if self._step > self._window:
            raise ConfigError(
                f"`step` must be at most `window`, {self._window}, or some documents are never "
                f"read; not {self._step}"
            )
        for name in self._extra_body or ():
            if name in _SETS_ITSELF:
                raise ConfigError(f"`extra_body` can't set {name!r}: the backend sets it itself")
        options = (self._extra_body or {}).get("options", {})
        if self._server == "ollama" and not isinstance(options, Mapping):
            raise ConfigError(f"`options` in `extra_body` must be a table, not {options!r}")

    def _dialect(self) -> Dialect:
        server, extra = SERVERS[self._server], self._extra_body or {}
        own_address = self._base_url is None and self._endpoints is None
        max_characters = self._max_characters or _MAX_CHARACTERS[self._mode]
        if self._mode == "listwise":
            dialect = ranker_dialect(
                server,
                max_tokens=self._answer_tokens,
                max_characters=max_characters,
                own_address=own_address,
                extra_body=extra,
            )
        else:
            prompt, words, is_whole = self._prompt()
            dialect = judge_dialect(
                server,
                api=self._api or ("completions" if is_whole else "chat"),
                prompt=TextPrompt(prompt),
                words=words,
                top_logprobs=self._top_logprobs,
                max_characters=max_characters,
                own_address=own_address,
                extra_body=extra,
            )
        facts = {"max_characters": str(max_characters)}
        if self._mode == "listwise":
            facts |= {"window": str(self._window), "step": str(self._step)}
        if extra:
            digest = hashlib.sha256(json.dumps(extra, sort_keys=True, default=str).encode())
            facts["extra_body"] = digest.hexdigest()[:12]
        return _with_facts(dialect, facts)

    def _prompt(self) -> tuple[Prompt, AnswerWords, bool]:
        """Return the prompt, the words that answer it, and whether it is the whole prompt."""
        if (self._true_token is None) != (self._false_token is None):
            raise ConfigError("`true_token` and `false_token` need each other; set both or neither")
        words = AnswerWords(self._true_token or "yes", self._false_token or "no")
        if words.true.strip().casefold() == words.false.strip().casefold():
            raise ConfigError(f"`true_token` and `false_token` are the same word, {words.true!r}")
        if self._template is None:
            if self._api == "completions":
                raise ConfigError(
                    "api='completions' needs `template`, the whole prompt: the name of a known "
                    f"one ({', '.join(_known())}), or a text"
                )
            return JUDGE, words, False
        if self._template in TEMPLATES:
            known = TEMPLATES[self._template]
            true, false = known.answer_tokens.true, known.answer_tokens.false
            if not isinstance(true, str) or not isinstance(false, str):
                raise ConfigError(
                    f"template={self._template!r} scores by the logit of one token, which servers "
                    f"don't send; these score by two: {', '.join(_known())}"
                )
            if self._api == "chat":
                raise ConfigError(
                    f"template={self._template!r} is a whole prompt; remove api='chat', which "
                    "would write another one around it"
                )
            if self._true_token is None:
                words = AnswerWords(true, false, exact=True)
            return known.prompt, words, True
        if "{query}" not in self._template:
            raise ConfigError(
                unknown("template", self._template, _known())
                + ", or a text with {query} and {document}"
            )
        check_template(self._template, self._instruction)
        return Prompt(self._template, self._instruction), words, False

    @property
    def _answer_tokens(self) -> int:
        return self._max_tokens or self._window * _TOKENS_PER_DOCUMENT + _MORE_TOKENS

    @property
    def endpoint(self) -> str:
        """The server's `host:port`; of several, with commas."""
        return self._requests.endpoint

    @property
    def kind(self) -> str:
        return self._server

    @property
    def model(self) -> str | None:
        return self._model

    @property
    def name(self) -> str:
        return self._requests.name

    def score(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        if self.pointwise:
            return self._requests.score(query, documents)
        windows = self._rank(query, documents)
        with _context.until(time.monotonic() + self._timeout):
            return flow.run(windows, lambda request: self._requests.score(*request))

    def score_many(self, requests: Requests) -> list[Scores]:
        """Score several requests side by side; `timeout` holds for each of them."""
        if self.pointwise:
            return self._requests.score_many(requests)
        return side_by_side(lambda request: self.score(*request), requests, self._max_parallel)

    async def ascore(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        if self.pointwise:
            return await self._requests.ascore(query, documents)
        windows = self._rank(query, documents)
        with _context.until(time.monotonic() + self._timeout):
            return await flow.arun(windows, lambda request: self._requests.ascore(*request))

    def _rank(self, query: str | Query, documents: Sequence[Document]) -> _Windows:
        """Yield the requests that put documents in order, and return the scores of that order."""
        query, checked = check_request(
            query, documents, instructions=self.instructions, label=self.label
        )
        count = len(checked)
        if count > self._max_documents:
            raise UnsupportedInputError(
                f"{count} documents for a listwise judge that takes {self._max_documents}; pass "
                f"fewer, or raise `max_documents` (that many need "
                f"{count_windows(count, window=self._window, step=self._step)} requests)"
            )
        windows = slide(count, window=self._window, step=self._step)
        truncated: set[int] = set()
        usage: Usage | None = None
        asked = unread = 0
        positions = next(windows) if count > 1 else None
        order = list(range(count))
        while positions is not None:
            scores = yield query, checked.take(positions)
            asked += 1
            unread += len({*scores}) == 1
            truncated |= {positions[position] for position in scores.truncated}
            if scores.usage is not None:
                usage = scores.usage if usage is None else usage + scores.usage
            by_score = sorted(zip(scores, positions, strict=True), key=lambda pair: -pair[0])
            try:
                positions = windows.send([position for _, position in by_score])
            except StopIteration as end:
                positions, order = None, end.value
        if unread:
            self._report_unread(unread, asked)
        values = [0.0] * count
        for rank, position in enumerate(order):
            values[position] = (count - rank) / count
        return Scores(
            values,
            backend=self.name,
            label=self.label,
            model=self._model,
            scale=self.scale,
            truncated=truncated,
            usage=usage,
        )

    def _report_unread(self, unread: int, asked: int) -> None:
        """Log that answers named no document, or fail if none did."""
        if unread == asked:
            raise InvalidResponse(
                f"{self._server} at {self.endpoint}: none of {asked} answers names a document; the "
                "model may have refused, or thought for all of its tokens: raise `max_tokens`, or "
                "switch thinking off by `extra_body`"
            )
        _log.warning(
            "%d of %d answers of %s name no document; theirs keep their order",
            unread,
            asked,
            self.label,
        )

    def describe(self) -> dict[str, object]:
        """Return the server and the settings of its requests; sends nothing."""
        facts = {**self._requests.describe(), "mode": self._mode}
        if self.pointwise:
            return facts
        # Places in an order, which are no probabilities whatever the server would send.
        facts["calibration"] = UNCALIBRATED
        limits = {"window": self._window, "step": self._step, "max_documents": self._max_documents}
        return {**facts, **limits}

    def check_requirements(self) -> None:
        self._requests.check_requirements()

    def check_servers(self) -> Iterator[ServerCheck]:
        return map(self._check_server, self._requests.base_urls)

    def _check_server(self, url: str) -> ServerCheck:
        try:
            models = self._requests.list_models(url)
        except RerankError as error:
            return ServerCheck(ok=False, detail=str(error))
        if not models:
            detail = f"{url} answers, and lists no models; taken for {self.kind!r}, as configured"
            return ServerCheck(ok=True, detail=detail)
        facts = {"models": models}
        # Ollama adds the tag; a server of one model may take any name, and call it by its path.
        if self._model in models or f"{self._model}:latest" in models or len(models) == 1:
            return ServerCheck(ok=True, detail=f"a chat server at {url}", facts=facts)
        listed = ", ".join(models[:_MAX_LISTED]) + (", …" if models[_MAX_LISTED:] else "")
        detail = f"{url} has no model {self._model!r}; it has: {listed}"
        return ServerCheck(ok=False, detail=detail, facts=facts)

    def to_spec(self) -> dict[str, object]:
        self._requests.check_no_literal_key()
        return {"kind": self._server, **self._options()}

    def _options(self) -> dict[str, Any]:
        return self._changed({*inspect.signature(type(self)).parameters} - {"server", "api_key"})

    def _changed(self, names: Iterable[str]) -> dict[str, Any]:
        """Return those of the options `names` that are not the defaults."""
        return changed_options(type(self), {name: getattr(self, f"_{name}") for name in names})

    def __reduce__(self) -> tuple[object, ...]:
        self._requests.check_no_literal_key()
        return partial(type(self), server=self._server, **self._options()), ()

    def close(self) -> None:
        self._requests.close()

    async def aclose(self) -> None:
        await self._requests.aclose()


def _known() -> list[str]:
    """Return the names of the templates that answer by one of two words."""
    return sorted(
        name for name, known in TEMPLATES.items() if known.answer_tokens.false is not None
    )


def _with_facts(dialect: Dialect, facts: Mapping[str, str]) -> Dialect:
    return replace(dialect, facts={**dialect.facts, **facts})


def _without_version(url: str | None) -> Any:
    """Return Ollama's address without `/v1`, below which only a part of its interfaces stands."""
    return url.rstrip("/").removesuffix("/v1") if isinstance(url, str) else url
