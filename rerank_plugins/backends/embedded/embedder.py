"""From texts to token vectors: tokenizer, ONNX session, and a cache of recent vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeAlias

import numpy as np
import onnxruntime  # type: ignore[import-untyped]  # ships no types
from numpy.typing import NDArray

from rerank_plugins._internal.long_documents import LongDocuments
from rerank_plugins._internal.windows import sentences, split
from rerank_plugins.backends.embedded import files
from rerank_plugins.backends.embedded.blocks import unpack
from rerank_plugins.backends.embedded.lengths import MAX_LENGTH, WINDOW, passage_tokens
from rerank_plugins.backends.embedded.unigram import UnigramTokenizer, normalize
from rerank_plugins.backends.late_interaction import Sentence, TextVectors, quantize
from rerank_plugins.backends.local.onnx.build.embedding_table import EmbeddingTable
from rerank_plugins.backends.local.out_of_memory import is_out_of_memory
from rerank_plugins.backends.local.token_cache import TokenCache
from rerank_plugins.errors import BackendError, UnsupportedInputError
from rerank_plugins.scores import Passage

__all__ = ["Role", "TokenEmbedder"]

_MAX_LETTERS_PER_TOKEN = 32
"""Text with longer tokens is white space or data, of which a megabyte need not be tokenised."""

_QUERY_TOKENS = 1 << 14
"""Tokens of queries whose vectors are kept: a server scores a long request in many calls."""

_ROW_BYTES = 384 // 32 * 18
"""Of the 384 numbers of a word embedding, in blocks."""

_START, _END = 0, 2

_WINDOWS = LongDocuments()

Role: TypeAlias = Literal["query", "passage"]
"""What a text is; the model was trained with this word and a colon before it."""


class TokenEmbedder:
    """Turns texts into token vectors; safe to share between threads and across a fork.

    Texts run one by one, each on one thread, which is faster than batches: nothing is padded, and
    the activations fit into the processor's cache.

    Args:
        max_length: the most tokens of a text; the rest is not read. None: 1,024 of a query, and
            of a passage what its windows hold.
        threads: texts embedded at the same time.
        cached_tokens: tokens of passages whose vectors are kept; 0 keeps none.
        long_documents: what becomes of passages with more tokens than a window.

    Raises:
        BackendError: the files of the model can't be read.
    """

    def __init__(
        self,
        *,
        max_length: int | None,
        threads: int,
        cached_tokens: int,
        long_documents: LongDocuments = _WINDOWS,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # it would keep a pattern for each length
        try:
            self._session = onnxruntime.InferenceSession(
                files.FOLDER / files.MODEL, options, providers=["CPUExecutionProvider"]
            )
            pieces = (files.FOLDER / files.PIECES).read_text("utf-8").split("\n")
            self._words = _read_words(len(pieces))
            self._tokenizer = UnigramTokenizer(
                pieces, np.load(files.FOLDER / files.SCORES).tolist()
            )
        except Exception as exc:  # onnxruntime does not document what it raises
            raise BackendError(
                f"the embedded model in {str(files.FOLDER)!r} can't be loaded ({exc}); "
                "reinstall rerank-plugins"
            ) from exc
        self._pieces = pieces
        self._prefixes: Mapping[Role, list[int]] = {
            "query": self._tokenizer.encode("query:", 3)[0],
            "passage": self._tokenizer.encode("passage:", 3)[0],
        }
        self._max_query = max_length or MAX_LENGTH
        self._long_documents = long_documents
        self._window = long_documents.size(WINDOW)
        self._max_passage = passage_tokens(max_length, long_documents)
        self._threads = threads
        self._cache: TokenCache[TextVectors] = TokenCache(cached_tokens)
        self._queries: TokenCache[TextVectors] = TokenCache(_QUERY_TOKENS)

    def vectors(self, text: str, role: Role) -> TextVectors:
        """Return the vectors of a text's tokens."""
        if role == "passage":
            return self._passage(text)
        return self._run(*self._ids(text), role)

    def query(self, text: str) -> TextVectors:
        """Return the vectors of the tokens that are (parts of) words or numbers, or of all."""
        return self._queries.fill([text], lambda texts: list(map(self._query, texts)))[text]

    def _query(self, text: str) -> TextVectors:
        ids, is_truncated = self._ids(text)
        vectors = self._run(ids, is_truncated, "query")
        is_word = np.array([any(map(str.isalnum, self._pieces[token])) for token in ids], bool)
        return vectors.at(is_word) if is_word.any() else vectors

    def passages(self, texts: Sequence[str]) -> Mapping[str, TextVectors]:
        """Return the vectors of each distinct text."""
        return self._cache.fill(texts, self._embed)

    def _embed(self, texts: Sequence[str]) -> list[TextVectors]:
        if not texts:
            return []
        workers = min(self._threads, len(texts))
        if workers < 2:  # noqa: PLR2004 - a pool of one is a detour
            return list(map(self._passage, texts))
        try:
            with ThreadPoolExecutor(workers, "rerank-embedded") as pool:
                return list(pool.map(self._passage, texts))
        except RuntimeError as exc:
            if is_out_of_memory(exc):
                raise MemoryError("no memory for one more thread; lower `threads`") from exc
            raise

    def _ids(self, text: str) -> tuple[list[int], bool]:
        """Return the first ids of a query, and whether it has more."""
        return self._first_ids(text, self._max_query)

    def _first_ids(self, text: str, limit: int) -> tuple[list[int], bool]:
        letters = limit * _MAX_LETTERS_PER_TOKEN
        text = text.strip()
        ids, is_cut = self._tokenizer.encode(normalize(text[:letters]), limit)
        return ids, is_cut or len(text) > letters

    def _passage(self, text: str) -> TextVectors:
        """Embed one passage, window by window if it is long.

        Raises:
            UnsupportedInputError: it is too long, and such are refused.
        """
        ids, has_more = self._first_ids(text, min(self._window, self._max_passage))
        if not has_more:
            return quantize([self._vectors(ids, "passage")] if ids else [])
        settings = self._long_documents
        ids, spans, is_cut = self._tokenizer.encode_units(text, self._max_passage)
        if is_cut and settings.long_documents == "error":
            raise UnsupportedInputError(
                f"a document has more than the {self._max_passage} tokens that are read of one; "
                'split it, raise `max_length`, or set long_documents="best" to read all of it'
            )
        windows = split(text, spans, self._window, limit=settings.max_windows)
        vectors = quantize(
            [self._vectors(ids[window.first : window.last], "passage") for window in windows]
        )
        is_cut = is_cut or (bool(windows) and windows[-1].last < len(ids))
        read = windows[-1].end / len(text) if is_cut else None
        if len(windows) > 1:
            vectors = vectors._replace(
                passages=tuple(Passage(window.start, window.end) for window in windows),
                sentences=tuple(
                    Sentence(row + part.first - window.first, Passage(part.start, part.end))
                    for row, window in zip(vectors.windows, windows, strict=True)
                    for part in sentences(text, spans, window)
                ),
            )
        return vectors._replace(is_truncated=is_cut, read=read)

    def _run(self, ids: list[int], is_truncated: bool, role: Role) -> TextVectors:  # noqa: FBT001 - as `_ids` returns it
        """Embed one text, window by window."""
        windows = [ids[i : i + WINDOW] for i in range(0, len(ids), WINDOW)]
        return quantize(
            [self._vectors(window, role) for window in windows], is_truncated=is_truncated
        )

    def _vectors(self, ids: list[int], role: Role) -> NDArray[np.float32]:
        prefix = [_START, *self._prefixes[role]]
        row = np.array([*prefix, *ids, _END], np.int32)
        try:
            words = unpack(self._words.rows(row))
            (tokens,) = self._session.run(
                ["tokens"], {"input_ids": row[None], "words": words[None]}
            )
        except Exception as exc:  # onnxruntime has a class per status code, without a public base
            if is_out_of_memory(exc):  # fewer windows at once may fit
                raise MemoryError("the embedded model gets no memory; lower `threads`") from exc
            raise BackendError(f"the embedded model failed: {exc}") from exc
        vectors: NDArray[np.float32] = tokens[0, len(prefix) : -1]
        if not np.isfinite(vectors).all():  # rounded, they would look like any others
            raise BackendError(
                f"the embedded model in {str(files.FOLDER)!r} gave numbers that are not finite; "
                "reinstall rerank-plugins"
            )
        return vectors


def _read_words(count: int) -> EmbeddingTable:
    """Return the word embeddings of so many pieces, mapped.

    Raises:
        ValueError: the file holds others.
    """
    words = np.load(files.FOLDER / files.WORDS, mmap_mode="r")
    if (words.shape, words.dtype) != ((count, _ROW_BYTES), np.uint8):
        raise ValueError(f"{files.WORDS} holds {words.shape} of {words.dtype}, for {count} pieces")
    return EmbeddingTable(words)
