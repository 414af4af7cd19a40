"""From texts to the token ids of prompts: a query and a document in a language model's template."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins.backends.local.engine import Request
from rerank_plugins.backends.local.prompts import Prompt, pieces
from rerank_plugins.backends.local.token_cache import TokenCache, Tokens
from rerank_plugins.backends.local.tokenizer import Pairs
from rerank_plugins.errors import ConfigError

__all__ = ["PromptTokenizer"]

_log = logging.getLogger(__name__)

_CHUNK = 1024  # texts tokenised at once: keeps memory flat over any number of documents
_FILLERS = ("0", "1 2 3 4")
"""Documents that have no token in common: what equals in their prompts is the template."""


class PromptTokenizer:
    """Encodes prompts as the model's own tokenizer would: each is one text, tokenised whole.

    A prompt above `max_length` loses the end of its document, never a part of the template. A
    query may fill three quarters of the room that the template leaves; what is beyond is cut,
    logged once and counted. Safe to share between threads.

    Args:
        tokenizer: a transformers tokenizer that has a `backend_tokenizer`.
        prompt: the template.
        max_length: most tokens in a prompt.
        cached_tokens: tokens of prompts kept for the next request; 0 keeps none.

    Raises:
        ConfigError: the chat template loses a query or a document, or does not use the
            instruction; or `max_length` leaves no room beside the template.
    """

    def __init__(
        self, tokenizer: Any, prompt: Prompt, *, max_length: int, cached_tokens: int
    ) -> None:
        backend = tokenizer.backend_tokenizer
        self._tokenizer = type(backend).from_str(backend.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._render = _text_renderer(prompt) if prompt.text else _chat_renderer(tokenizer, prompt)
        self._max_length = max_length
        template = len(self._ids(self._render("", "")))
        self._most_of_query = (max_length - template) * 3 // 4
        if self._most_of_query < 1:
            raise ConfigError(
                f"`max_length` is {max_length}, which leaves no room for text beside the "
                f"{template} tokens of the template"
            )
        self._prompts: TokenCache[Tokens] = TokenCache(cached_tokens)
        self._lock = ForkSafeLock()
        self.truncated_pairs = 0
        """Prompts whose document was cut so far."""
        self.truncated_queries = 0
        """Prompts whose query was cut so far."""

    def encode(self, requests: Sequence[Request]) -> Pairs:
        """Return the prompts of all requests in input order, one group per query."""
        texts = [
            [self._render(query, document) for document in documents]
            for query, documents in ((self._cut_query(q, len(d)), d) for q, d in requests)
        ]
        known = self._prompts.fill((text for part in texts for text in part), self._encode)
        rows: list[NDArray[np.int32]] = []
        groups: list[int] = []
        shared: list[int] = []
        for group, (part, (query, _)) in enumerate(zip(texts, requests, strict=True)):
            found = [known[text] for text in part]
            if any(count > self._max_length for _, count in found):
                found = self._shortened(self._cut_query(query, 0), found)
            rows += [ids for ids, _ in found]
            groups += [group] * len(found)
            shared += [_common([ids for ids, _ in found])] * len(found)
        ids = np.concatenate(rows) if rows else np.zeros(0, np.int32)
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)])
        return Pairs(
            ids,
            np.zeros_like(ids),
            offsets,
            np.array(groups, dtype=np.int64),
            np.array(shared, dtype=np.int64),
        )

    def describe(self) -> dict[str, object]:
        """Say how many prompts were cut so far, as JSON-ready facts."""
        return {
            "truncated_pairs": self.truncated_pairs,
            "truncated_queries": self.truncated_queries,
        }

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _encode(self, texts: Sequence[str]) -> list[Tokens]:
        tokens: list[Tokens] = []
        for start in range(0, len(texts), _CHUNK):
            chunk = list(texts[start : start + _CHUNK])
            for encoding in self._tokenizer.encode_batch_fast(chunk, add_special_tokens=False):
                ids = np.array(encoding.ids, dtype=np.int32)
                tokens.append((ids[: self._max_length].copy(), len(ids)))
        return tokens

    def _cut_query(self, query: str, pairs: int) -> str:
        """Return the query, or its start where it is too long; count its pairs then."""
        if len(query) <= self._most_of_query:  # a token has at least one character
            return query
        encoding = self._tokenizer.encode(query, add_special_tokens=False)
        if len(encoding.ids) <= self._most_of_query:
            return query
        with self._lock:
            first = pairs and not self.truncated_queries
            self.truncated_queries += pairs
        if first:
            _log.warning(
                "a query of %d tokens was cut to %d; shorten queries or raise `max_length` "
                "(said once; `describe()` counts)",
                len(encoding.ids),
                self._most_of_query,
            )
        return query[: encoding.offsets[self._most_of_query - 1][1]]

    def _shortened(self, query: str, found: Sequence[Tokens]) -> list[Tokens]:
        """Cut the documents of too long prompts, and put the end of the template behind them."""
        first, second = (self._ids(self._render(query, filler)) for filler in _FILLERS)
        kept = _common([np.array(first[::-1]), np.array(second[::-1])])
        tail = np.array(first[len(first) - kept :], dtype=np.int32)
        cut: list[Tokens] = []
        for ids, count in found:
            if count <= self._max_length:
                cut.append((ids, count))
                continue
            start = ids[: self._max_length - len(tail)]
            cut.append((np.concatenate([start, tail]), count))
        with self._lock:
            self.truncated_pairs += sum(count > self._max_length for _, count in found)
        return cut


def _common(rows: Sequence[NDArray[Any]]) -> int:
    """Return how many tokens all rows begin with; one less than the shortest at most."""
    if len(rows) < 2:  # noqa: PLR2004 - alone, a row has nothing to share
        return 0
    most = min(len(row) for row in rows) - 1
    for row in rows[1:]:
        differing = np.flatnonzero(row[:most] != rows[0][:most])
        most = int(differing[0]) if len(differing) else most
    return max(most, 0)


def _text_renderer(prompt: Prompt) -> Callable[[str, str], str]:
    before, between, behind = pieces(prompt)
    return lambda query, document: f"{before}{query}{between}{document}{behind}"


def _chat_renderer(tokenizer: Any, prompt: Prompt) -> Callable[[str, str], str]:
    """Return what renders the chat template as sentence-transformers does.

    Raises:
        ConfigError: a query, a document or the instruction does not reach the text.
    """
    forms = (False, True) if prompt.structured is None else (prompt.structured,)
    problems = []
    for structured in forms:
        render = _Chat(tokenizer, prompt, structured=structured)
        problem = render.problem()
        if problem is None:
            return render
        problems.append(problem)
    raise ConfigError(f"the chat template {problems[0]}, so it is no reranker's; give `template`")


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
        """Say what the template loses of a pair; None: nothing."""
        try:
            plain = self("0", "0")
            others = {"query": self("1 2", "0"), "document": self("0", "1 2")}
            if self._prompt.instruction is not None:
                others["instruction"] = self("0", "0", " 1 2")
        except Exception as exc:  # noqa: BLE001 - a template raises whatever its author likes
            return f"fails on a query and a document ({type(exc).__name__}: {exc})"
        lost = [name for name, text in others.items() if text == plain]
        return f"leaves out the {' and the '.join(lost)}" if lost else None

    def _message(self, role: str, text: str) -> dict[str, object]:
        content = [{"type": "text", "text": text}] if self._structured else text
        return {"role": role, "content": content}
