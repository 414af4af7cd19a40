"""From texts to token ids, for models that read each text alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins._internal.long_documents import LongDocuments
from rerank_plugins._internal.optional import require
from rerank_plugins.backends.local.bi_encoder import BiEncoder, Expansion, TextFormat
from rerank_plugins.backends.local.checkpoint import Checkpoint
from rerank_plugins.backends.local.document_windows import (
    CutLog,
    WindowCollector,
    WindowedText,
    read_windows,
)
from rerank_plugins.backends.local.engine import UnsupportedByEngine
from rerank_plugins.backends.local.tokenizer import (
    Pairs,
    read_tokenizer,
    token_ids,
    without_limits,
)
from rerank_plugins.errors import ConfigError

__all__ = ["Role", "TextTokenizer"]

_log = logging.getLogger(__name__)

Role: TypeAlias = Literal["query", "document"]
"""What a text is."""

Ids: TypeAlias = NDArray[np.int32]

_FALLBACKS = ("mask_token", "eos_token")
"""What fills up queries where the model's files name no token."""


class _Format(NamedTuple):
    """A `TextFormat` in token ids."""

    prompt: str
    room: int
    """The most tokens between the special ones."""
    skipped: Ids
    only: Ids | None
    expansion: Expansion | None
    filler: int


_TRUNCATE = LongDocuments(long_documents="truncate")

_SPARE = 4
"""Tokens left free beside a window: next to its prompt, a text may be tokenised otherwise."""


class TextTokenizer:
    """Encodes texts as sentence-transformers does: prompt, special tokens, cut, and filled up.

    Safe to share between threads.

    Args:
        tokenizer: a `tokenizers.Tokenizer`; copied, so that no one else's settings matter.
        bi_encoder: how texts are read.
        max_length: the most tokens of a document, and of a query whose length is not its own.
        names: the names of the tokenizer's special tokens, such as `"mask_token"`, and what they
            are.
        cut_left: cut the start of a text instead of its end.
        long_documents: what becomes of documents that are too long.

    Raises:
        UnsupportedByEngine: the tokenizer puts special tokens elsewhere than around a text.
        ConfigError: a length leaves no room for text, or a token is not in the vocabulary.
    """

    def __init__(
        self,
        tokenizer: Any,
        bi_encoder: BiEncoder,
        *,
        max_length: int,
        names: dict[str, str],
        cut_left: bool = False,
        long_documents: LongDocuments = _TRUNCATE,
    ) -> None:
        self._long_documents = long_documents
        self._cut_log = CutLog(long_documents)
        self._tokenizer = without_limits(tokenizer)
        self._add_markers(bi_encoder.markers)
        self._head, self._tail = _around(self._tokenizer)
        self._names = names
        self._cut_left = cut_left
        self._formats: dict[Role, _Format] = {
            "query": self._format("query", bi_encoder.query, max_length),
            "document": self._format("document", bi_encoder.document, max_length, own=True),
        }
        self._lock = ForkSafeLock()
        self._truncated = {"query": 0, "document": 0}

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        tokenizer: Any = None,
        *,
        long_documents: LongDocuments = _TRUNCATE,
    ) -> TextTokenizer:
        """Build the encoder of a checkpoint.

        Args:
            checkpoint: a bi-encoder's.
            tokenizer: a `tokenizers.Tokenizer`; None: the one in `tokenizer.json`.
            long_documents: what becomes of documents that are too long.

        Raises:
            UnsupportedByEngine: there is no such file, only one of an older kind.
        """
        if checkpoint.bi_encoder is None:
            raise ValueError(f"{checkpoint.model!r} is no bi-encoder")
        config = checkpoint.tokenizer_config
        return cls(
            read_tokenizer(checkpoint) if tokenizer is None else tokenizer,
            checkpoint.bi_encoder,
            max_length=checkpoint.max_length,
            names={name: _content(config[name]) for name in _FALLBACKS if config.get(name)},
            cut_left=config.get("truncation_side") == "left",
            long_documents=long_documents,
        )

    def encode(self, texts: Sequence[str], role: Role) -> Pairs:
        """Return the tokens of texts of one role, in their order.

        A long document is several rows, its windows.

        Raises:
            UnsupportedInputError: one is too long, and these are refused.
        """
        form = self._formats[role]
        collector = WindowCollector(self._long_documents)
        parts: list[Ids] = []
        attended: list[int] = []
        truncated: list[bool] = []
        prompted = [form.prompt + text for text in texts]
        for text, ids in zip(texts, token_ids(self._tokenizer, prompted), strict=True):
            rows = [ids] if role == "query" else self._split(text, ids, form, collector)
            for row in rows:
                filled, seen, is_cut = self._row(row, form)
                parts.append(filled)
                attended.append(seen)
                truncated.append(is_cut)
        lengths = np.array([len(row) for row in parts], np.int64)
        cuts = np.array(truncated, np.bool_)
        self._count_cuts(role, cuts)
        flat = np.concatenate(parts) if parts else np.zeros(0, np.int32)
        return Pairs(
            flat,
            np.zeros_like(flat),
            np.concatenate([[0], np.cumsum(lengths)]),
            truncated=cuts,
            compared=self._compared(flat, form),
            attended=None if attended == lengths.tolist() else np.array(attended, np.int64),
            windows=collector.result(),
        )

    def describe(self) -> dict[str, object]:
        """Return how many texts were cut so far, as JSON-ready facts."""
        return {**self._cut_log.describe(), "truncated_queries": self._truncated["query"]}

    def _split(self, text: str, ids: Ids, form: _Format, collector: WindowCollector) -> list[Ids]:
        """Return the ids of a document with its prompt, or those of each of its windows."""
        settings = self._long_documents
        if len(ids) <= form.room and (
            settings.long_documents != "best" or settings.window_tokens is None
        ):
            collector.whole()
            return [ids]
        beside = len(self._tokenizer.encode(form.prompt, add_special_tokens=False).ids)
        room, tokens = max(1, form.room - beside), max(1, len(ids) - beside)
        self._cut_log.check(tokens, room)
        size = settings.size(max(1, room - _SPARE if beside else room))
        if settings.windows > 1 and (tokens > size or len(ids) > form.room):
            windowed = read_windows(self._tokenizer, text, size, limit=settings.windows)
            if len(windowed.windows) > 1:
                collector.windowed(windowed)
                self._cut_log.count(windowed=True, read=windowed.read)
                return self._window_ids(text, windowed, form)
        read = min(1.0, room / tokens)
        collector.whole(read)
        if read < 1:
            self._cut_log.count(windowed=False, read=read)
        return [ids]

    def _window_ids(self, text: str, windowed: WindowedText, form: _Format) -> list[Ids]:
        if not form.prompt:
            ids = np.array(windowed.ids, np.int32)
            return [ids[window.first : window.last] for window in windowed.windows]
        prompted = [form.prompt + text[window.start : window.end] for window in windowed.windows]
        return list(token_ids(self._tokenizer, prompted))

    def _row(self, ids: Ids, form: _Format) -> tuple[Ids, int, bool]:
        """Return a text's tokens as the model reads them, how many it sees, and whether it is cut.

        The special ones stand around them, and mask tokens fill them up.
        """
        is_cut = len(ids) > form.room
        if is_cut:
            ids = ids[len(ids) - form.room :] if self._cut_left else ids[: form.room]
        row = np.concatenate([self._head, ids, self._tail])
        attended = len(row)
        if form.expansion is not None and len(row) < form.expansion.length:
            missing = form.expansion.length - len(row)
            row = np.concatenate([row, np.full(missing, form.filler, np.int32)])
            attended = len(row) if form.expansion.attend else attended
        return row, attended, is_cut

    def _compared(self, ids: Ids, form: _Format) -> NDArray[np.bool_] | None:
        if not len(form.skipped) and form.only is None:
            return None
        compared = ~np.isin(ids, form.skipped)
        return compared if form.only is None else compared & np.isin(ids, form.only)

    def _count_cuts(self, role: Role, truncated: NDArray[np.bool_]) -> None:
        if not truncated.any():
            return
        with self._lock:
            is_first = role == "query" and not self._truncated[role]
            self._truncated[role] += int(truncated.sum())
        if is_first:
            _log.warning(
                "a query was cut to the %d tokens that the model reads of one; shorten queries "
                "(logged once; `describe()` counts)",
                self._formats[role].room,
            )

    def _add_markers(self, markers: Sequence[str]) -> None:
        """Let the tokenizer leave each marker whole, where its vocabulary has it."""
        tokens = require("tokenizers", extra="onnx")
        for marker in markers:
            for text in (marker, *marker.split(None, 1)[:1]):
                if self._tokenizer.token_to_id(text) is None:
                    continue
                if self._tokenizer.encode(text, add_special_tokens=False).tokens != [text]:
                    whole = tokens.AddedToken(text, normalized=False, special=True)
                    self._tokenizer.add_special_tokens([whole])
                break

    def _format(
        self, role: Role, form: TextFormat, max_length: int, *, own: bool = False
    ) -> _Format:
        length = max_length if own else form.longest(max_length)
        expansion = form.expansion
        room = length - len(self._head) - len(self._tail)
        if room < 1:
            raise ConfigError(
                f"a {role} may have {length} tokens, which leaves no room for text beside "
                f"{length - room} special tokens; raise `max_length`"
            )
        ids = [self._tokenizer.token_to_id(word) for word in form.skipped]
        unknown = getattr(self._tokenizer.model, "unk_token", None)
        skipped = [
            token
            for token, word in zip(ids, form.skipped, strict=True)
            if token is not None and (word == unknown or token != self._id(unknown))
        ]
        return _Format(
            form.prompt,
            room,
            np.array(skipped, np.int32),
            None if form.only is None else np.array(sorted(form.only), np.int32),
            expansion,
            0 if expansion is None else self._filler(expansion),
        )

    def _filler(self, expansion: Expansion) -> int:
        names = [expansion.token] if expansion.token else map(self._names.get, _FALLBACKS)
        name = next(filter(None, names), None)
        token = self._id(name)
        if token is None:
            raise ConfigError(
                f"queries are filled up with the token {name!r}, which the tokenizer does not have"
            )
        return token

    def _id(self, token: str | None) -> int | None:
        found: int | None = None if token is None else self._tokenizer.token_to_id(token)
        return found


def _around(tokenizer: Any) -> tuple[Ids, Ids]:
    """Return the special tokens before and after a text."""
    text = "one two, three"
    whole, inner = (tokenizer.encode(text, add_special_tokens=special) for special in (True, False))
    ids, own = (np.array(encoding.ids, np.int32) for encoding in (whole, inner))
    own_places = [place for place, mask in enumerate(whole.special_tokens_mask) if not mask]
    start, end = (own_places[0], own_places[-1] + 1) if own_places else (0, 0)
    if not np.array_equal(ids[start:end], own) or any(whole.type_ids):
        raise UnsupportedByEngine(
            "the tokenizer does not put its special tokens around a text, or gives it types"
        )
    return ids[:start], ids[end:]


def _content(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)
