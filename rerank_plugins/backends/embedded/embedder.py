"""From texts to token vectors: tokenizer, ONNX session, and a cache of recent vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]  # ships no types
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rerank_plugins.backends.embedded.late_interaction import TokenVectors, quantize
from rerank_plugins.backends.local.out_of_memory import is_out_of_memory
from rerank_plugins.backends.local.token_cache import TokenCache
from rerank_plugins.errors import BackendError

__all__ = ["WINDOW", "TokenEmbedder"]

_FOLDER = Path(__file__).parent
WINDOW = 256
"""Tokens per run without the two special ones: the length that the model was made for."""
_MAX_LETTERS_PER_TOKEN = 32
"""Text with longer tokens is white space or data, of which a megabyte need not be tokenised."""


class TokenEmbedder:
    """Turns texts into token vectors; safe to share between threads and across a fork.

    Texts run one by one, each on one thread, which is faster than batches: nothing is padded, and
    the activations fit into the processor's cache.

    Args:
        max_length: the most tokens of a text; the rest is not read.
        threads: texts embedded at the same time.
        cached_tokens: tokens whose vectors are kept; 0 keeps none.

    Raises:
        BackendError: the files of the model can't be read.
    """

    def __init__(self, *, max_length: int, threads: int, cached_tokens: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(
                _FOLDER / "model.onnx", options, providers=["CPUExecutionProvider"]
            )
            self._tokenizer = Tokenizer.from_file(str(_FOLDER / "tokenizer.json"))
        except Exception as exc:  # neither library documents what it raises
            raise BackendError(
                f"the embedded model in {str(_FOLDER)!r} can't be loaded ({exc}); "
                "reinstall rerank-plugins"
            ) from exc
        self._start, self._end = (self._tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]"))
        self._is_word = self._words()
        self._inputs = [node.name for node in self._session.get_inputs()]
        self._max_length = max_length
        self._threads = threads
        self._cache: TokenCache[TokenVectors] = TokenCache(cached_tokens)

    def embed(self, texts: Sequence[str]) -> Mapping[str, TokenVectors]:
        """Return the vectors of each distinct text."""
        return self._cache.fill(texts, self._embed)

    def words(self, tokens: TokenVectors) -> TokenVectors:
        """Return the tokens that are (parts of) words or numbers; all of them if none is."""
        is_word = self._is_word[tokens.ids]
        return tokens.at(is_word) if is_word.any() else tokens

    def _embed(self, texts: Sequence[str]) -> list[TokenVectors]:
        limit = self._max_length * _MAX_LETTERS_PER_TOKEN
        stripped = [text.lstrip() for text in texts]
        encodings = self._tokenizer.encode_batch_fast(
            [text[:limit] for text in stripped], add_special_tokens=False
        )
        ids = [np.array(encoding.ids[: self._max_length], np.int32) for encoding in encodings]
        is_truncated = [
            len(text) > limit or len(encoding.ids) > self._max_length
            for text, encoding in zip(stripped, encodings, strict=True)
        ]
        workers = min(self._threads, len(ids))
        if workers < 2:  # noqa: PLR2004 - a pool of one is a detour
            return list(map(self._run, ids, is_truncated))
        try:
            with ThreadPoolExecutor(workers, "rerank-embedded") as pool:
                return list(pool.map(self._run, ids, is_truncated))
        except RuntimeError as exc:
            if is_out_of_memory(exc):
                raise MemoryError("no memory for one more thread; lower `threads`") from exc
            raise

    def _run(self, ids: NDArray[np.int32], is_truncated: bool) -> TokenVectors:  # noqa: FBT001  # mapped
        """Embed one text, window by window."""
        windows = [ids[i : i + WINDOW] for i in range(0, len(ids), WINDOW)]
        vectors = [self._vectors(window) for window in windows] or [np.zeros((0, 1), np.float32)]
        return quantize(ids, np.concatenate(vectors), is_truncated=is_truncated)

    def _vectors(self, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        row = np.concatenate([[self._start], ids, [self._end]]).astype(np.int32)[None]
        feeds: dict[str, Any] = dict(zip(self._inputs, (row, np.zeros_like(row)), strict=False))
        try:
            (tokens,) = self._session.run(["tokens"], feeds)
        except Exception as exc:  # onnxruntime has a class per status code, without a public base
            if is_out_of_memory(exc):  # fewer windows at once may fit
                raise MemoryError("the embedded model gets no memory; lower `threads`") from exc
            raise BackendError(f"the embedded model failed: {exc}") from exc
        vectors: NDArray[np.float32] = tokens[0, 1:-1]
        return vectors

    def _words(self) -> NDArray[np.bool_]:
        """Return for each vocabulary entry whether it is (part of) a word or a number."""
        vocabulary = self._tokenizer.get_vocab()
        is_word = np.zeros(max(vocabulary.values()) + 1, bool)
        for token, index in vocabulary.items():
            is_word[index] = not token.startswith("[") and any(map(str.isalnum, token))
        return is_word
