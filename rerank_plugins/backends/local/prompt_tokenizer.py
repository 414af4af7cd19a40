"""From texts to the token ids of prompts: a query and a document in a language model's template."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins._internal.long_documents import LongDocuments
from rerank_plugins.backends.local.document_windows import (
    CutLog,
    WindowCollector,
    read_windows,
)
from rerank_plugins.backends.local.engine import Request, query_text
from rerank_plugins.backends.local.token_cache import TokenCache, Tokens
from rerank_plugins.backends.local.tokenizer import Pairs, token_ids, without_limits
from rerank_plugins.backends.prompt_templates import Prompt, split_template
from rerank_plugins.content import Query
from rerank_plugins.errors import ConfigError, UnsupportedInputError

__all__ = ["PromptTokenizer"]

_log = logging.getLogger(__name__)

_MAX_INSTRUCTIONS = 64  # instructions of calls whose layout is kept
_FILLERS = ("0", "1 2 3 4")
"""Documents without a common token, so that only the template is common to their prompts."""

Render: TypeAlias = Callable[[str, str], str]
"""Puts a query and a document into the template."""


@dataclass(frozen=True, slots=True)
class _PromptLayout:
    """The template with one instruction."""

    render: Render
    max_query_tokens: int


_TRUNCATE = LongDocuments(long_documents="truncate")

_SPARE = 4
"""Tokens left free beside a window: next to the template, a text may be tokenised otherwise."""

_LEAST_ROOM = 8
"""Beside a long instruction, there are no more windows than of an eighth of the model's length.

One that leaves a token of room would else have the model read it with each token of a document.
"""


class PromptTokenizer:
    """Tokenises prompts as the model's own tokenizer would: each is one text, tokenised whole.

    A document that does not fit into `max_length` is read in windows, a prompt each, or loses its
    end; no prompt loses a part of the template. A
    query may fill three quarters of the room that the template leaves; the rest is cut, logged
    once and counted. Safe to share between threads.

    Args:
        tokenizer: a transformers tokenizer that has a `backend_tokenizer`.
        prompt: the template.
        max_length: the most tokens in a prompt.
        cached_tokens: tokens of prompts kept for the next request; 0 keeps none, None 1,048,576.
        long_documents: what becomes of documents that don't fit.

    Raises:
        ConfigError: the chat template loses the query or the document, or does not use the
            instruction; or `max_length` leaves no room beside the template.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt: Prompt,
        *,
        max_length: int,
        cached_tokens: int | None,
        long_documents: LongDocuments = _TRUNCATE,
    ) -> None:
        self._long_documents = long_documents
        self._cut_log = CutLog(long_documents)
        self._tokenizer = without_limits(tokenizer.backend_tokenizer)
        self._chat_tokenizer = tokenizer
        self._prompt = prompt
        self._max_length = max_length
        self._default_layout = self._make_layout(prompt)
        self._layouts: dict[str, _PromptLayout] = {}
        self._prompts: TokenCache[Tokens] = TokenCache(cached_tokens)
        self._lock = ForkSafeLock()
        self._truncated_pairs = 0
        self._truncated_queries = 0

    def encode(self, requests: Sequence[Request]) -> Pairs:
        """Return the prompts of all requests in input order, one group per query.

        Raises:
            UnsupportedInputError: the template can't take the instruction of a query.
        """
        layouts = [self._layout_of(query) for query, _ in requests]
        queries = [
            self._cut_query(query_text(query), layout, len(documents))
            for (query, documents), layout in zip(requests, layouts, strict=True)
        ]
        texts = [
            [layout.render(query, document) for document in documents]
            for (_, documents), layout, (query, _) in zip(requests, layouts, queries, strict=True)
        ]
        tokens_of = self._prompts.fill((text for part in texts for text in part), self._encode)
        collector = WindowCollector(self._long_documents)
        rows: list[NDArray[np.int32]] = []
        groups: list[int] = []
        shared: list[int] = []
        truncated: list[bool] = []
        for group, ((_, documents), part, layout, (query, query_is_cut)) in enumerate(
            zip(requests, texts, layouts, queries, strict=True)
        ):
            tokens: list[Tokens] = []
            for document, prompted in zip(documents, part, strict=True):
                tokens += self._split(tokens_of[prompted], document, query, layout, collector)
            too_long = [count > self._max_length for _, count in tokens]
            ids = [row for row, _ in tokens]
            if any(too_long):
                ids = self._cut_documents(query, layout, ids, too_long)
            rows += ids
            groups += [group] * len(ids)
            shared += [_common_prefix(ids)] * len(ids)
            truncated += [query_is_cut or cut for cut in too_long]
        with self._lock:
            self._truncated_pairs += sum(truncated)
        flat = np.concatenate(rows) if rows else np.zeros(0, np.int32)
        return Pairs(
            flat,
            np.zeros_like(flat),
            np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]),
            np.array(groups, dtype=np.int64),
            np.array(shared, dtype=np.int64),
            np.array(truncated, dtype=np.bool_),
            windows=collector.result(),
        )

    def describe(self) -> dict[str, object]:
        """Return how many prompts were cut so far, as JSON-ready facts."""
        return {
            "truncated_pairs": self._truncated_pairs,
            "truncated_queries": self._truncated_queries,
            **self._cut_log.describe(),
        }

    def _split(
        self,
        prompt: Tokens,
        document: str,
        query: str,
        layout: _PromptLayout,
        collector: WindowCollector,
    ) -> list[Tokens]:
        """Return the prompts of a document: the one there is, or one for each of its windows."""
        settings, (_, count) = self._long_documents, prompt
        if count <= self._max_length and (
            settings.long_documents != "best" or settings.window_tokens is None
        ):
            collector.whole()
            return [prompt]
        beside = len(self._ids(layout.render(query, "")))  # all but the document
        room, tokens = max(1, self._max_length - beside), max(1, count - beside)
        self._cut_log.check(tokens, room)
        size = settings.size(max(1, room - _SPARE))
        if settings.windows > 1 and (tokens > size or count > self._max_length):
            least = settings.size(max(1, self._max_length // _LEAST_ROOM))
            limit = min(settings.windows, -(-tokens // least))
            text = read_windows(self._tokenizer, document, size, limit=limit)
            if len(text.windows) > 1:
                collector.windowed(text)
                self._cut_log.count(windowed=True, read=text.read)
                return self._encode(
                    [layout.render(query, document[w.start : w.end]) for w in text.windows]
                )
        read = min(1.0, room / tokens)
        collector.whole(read)
        if read < 1:
            self._cut_log.count(windowed=False, read=read)
        return [prompt]

    def _make_layout(self, prompt: Prompt) -> _PromptLayout:
        render = (
            _text_renderer(prompt) if prompt.text else _chat_renderer(self._chat_tokenizer, prompt)
        )
        template = len(self._ids(render("", "")))
        max_query_tokens = (self._max_length - template) * 3 // 4
        if max_query_tokens < 1:
            raise ConfigError(
                f"`max_length` is {self._max_length}, which leaves no room for text beside the "
                f"{template} tokens of the template"
            )
        return _PromptLayout(render, max_query_tokens)

    def _layout_of(self, query: str | Query) -> _PromptLayout:
        if isinstance(query, str) or query.instruction is None:
            return self._default_layout
        instruction = query.instruction
        layout = self._layouts.get(instruction)
        if layout is None:
            try:
                layout = self._make_layout(self._prompt.with_instruction(instruction))
            except ConfigError as exc:
                raise UnsupportedInputError(
                    f"the query's instruction can't be used: {exc}"
                ) from exc
            with self._lock:
                if len(self._layouts) >= _MAX_INSTRUCTIONS:
                    self._layouts.clear()
                self._layouts[instruction] = layout
        return layout

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _encode(self, texts: Sequence[str]) -> list[Tokens]:
        return [
            (ids[: self._max_length].copy(), len(ids)) for ids in token_ids(self._tokenizer, texts)
        ]

    def _cut_query(self, query: str, layout: _PromptLayout, pairs: int) -> tuple[str, bool]:
        """Return the query, or its start if it is too long, and whether it was cut."""
        if len(query) <= layout.max_query_tokens:  # a token has at least one character
            return query, False
        encoding = self._tokenizer.encode(query, add_special_tokens=False)
        if len(encoding.ids) <= layout.max_query_tokens:
            return query, False
        with self._lock:
            is_first = pairs and not self._truncated_queries
            self._truncated_queries += pairs
        if is_first:
            _log.warning(
                "a query of %d tokens was cut to %d; shorten queries or raise `max_length` "
                "(logged once; `describe()` counts)",
                len(encoding.ids),
                layout.max_query_tokens,
            )
        return query[: encoding.offsets[layout.max_query_tokens - 1][1]], True

    def _cut_documents(
        self,
        query: str,
        layout: _PromptLayout,
        rows: Sequence[NDArray[np.int32]],
        too_long: Sequence[bool],
    ) -> list[NDArray[np.int32]]:
        """Cut the documents of prompts that are too long, and append the template's end."""
        first, second = (self._ids(layout.render(query, filler)) for filler in _FILLERS)
        kept = _common_prefix([np.array(first[::-1]), np.array(second[::-1])])
        tail = np.array(first[len(first) - kept :], dtype=np.int32)
        return [
            np.concatenate([row[: self._max_length - len(tail)], tail]) if cut else row
            for row, cut in zip(rows, too_long, strict=True)
        ]


def _common_prefix(rows: Sequence[NDArray[Any]]) -> int:
    """Return the length of the common prefix, always less than the shortest row."""
    if len(rows) < 2:  # noqa: PLR2004 - alone, a row has nothing to share
        return 0
    length = min(len(row) for row in rows) - 1
    for row in rows[1:]:
        differing = np.flatnonzero(row[:length] != rows[0][:length])
        length = int(differing[0]) if len(differing) else length
    return max(length, 0)


def _text_renderer(prompt: Prompt) -> Render:
    before, between, behind = split_template(prompt)
    return lambda query, document: f"{before}{query}{between}{document}{behind}"


def _chat_renderer(tokenizer: Any, prompt: Prompt) -> Render:
    """Return a function that renders the chat template as sentence-transformers does.

    Raises:
        ConfigError: the query, the document or the instruction does not reach the text.
    """
    forms = (False, True) if prompt.structured is None else (prompt.structured,)
    problems = []
    for structured in forms:
        render = _Chat(tokenizer, prompt, structured=structured)
        problem = render.problem()
        if problem is None:
            return render
        problems.append(problem)
    raise ConfigError(f"the chat template {problems[0]}, so it can't be used; set `template`")


class _Chat:
    """Renders a pair as messages of the roles `query` and `document`."""

    def __init__(self, tokenizer: Any, prompt: Prompt, *, structured: bool) -> None:
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._structured = structured

    def __call__(self, query: str, document: str, extra: str = "") -> str:
        messages = [self._message("query", query), self._message("document", document)]
        if self._prompt.instruction is not None:
            messages.insert(0, self._message("system", self._prompt.instruction + extra))
        text = self._tokenizer.apply_chat_template(
            messages, tokenize=False, **self._prompt.chat_options
        )
        return str(text)

    def problem(self) -> str | None:
        """Describe what the template leaves out of a pair; None if it leaves out nothing."""
        try:
            plain = self("0", "0")
            variants = {"query": self("1 2", "0"), "document": self("0", "1 2")}
            if self._prompt.instruction is not None:
                variants["instruction"] = self("0", "0", " 1 2")
        except Exception as exc:  # noqa: BLE001 - a template raises whatever its author likes
            return f"fails on a query and a document ({type(exc).__name__}: {exc})"
        lost = [name for name, text in variants.items() if text == plain]
        return f"leaves out the {' and the '.join(lost)}" if lost else None

    def _message(self, role: str, text: str) -> dict[str, object]:
        content = [{"type": "text", "text": text}] if self._structured else text
        return {"role": role, "content": content}
