"""The torch engine: any sequence classifier of transformers, on a GPU or a CPU."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from rerank_plugins.backends.engines.base import EngineSettings, Request, UnsupportedByEngine
from rerank_plugins.backends.engines.checkpoint import Checkpoint
from rerank_plugins.backends.engines.packed import CannotPack, PackedPath
from rerank_plugins.backends.engines.padded import PaddedPath
from rerank_plugins.backends.engines.plan import plan
from rerank_plugins.backends.engines.probe import probe
from rerank_plugins.backends.engines.tokenize import PairEncoder, Pairs
from rerank_plugins.backends.engines.torch_model import (
    choose_device,
    choose_dtype,
    is_out_of_memory,
    load_model,
)
from rerank_plugins.errors import BackendError

__all__ = ["TorchEngine", "load"]

_log = logging.getLogger(__name__)

_BATCH_TOKENS = {"cpu": 2048, "cuda": 65_536}
"""Where a batch is large enough for the device to be busy; more only costs memory."""
_OTHER_BATCH_TOKENS = 8192

_CHUNK = 4096  # pairs encoded at once, while the model scores the ones before


def load(checkpoint: Checkpoint, settings: EngineSettings) -> TorchEngine:
    """Load a checkpoint with transformers.

    Raises:
        ConfigError: the device, the dtype or the checkpoint can't be used.
        BackendError: the model does not fit onto the device.
    """
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device, checkpoint)
    model = load_model(checkpoint, device, dtype, settings)
    if settings.dtype == "auto" and dtype == torch.float16 and _overflows(model, checkpoint):
        model = load_model(checkpoint, device, torch.bfloat16, settings)
    return TorchEngine(model, _encoder(checkpoint, settings), checkpoint, settings)


def _overflows(model: Any, checkpoint: Checkpoint) -> bool:
    with torch.inference_mode():
        logits = PaddedPath(model, checkpoint)(probe(model.config, checkpoint))
    return not bool(torch.isfinite(logits).all())


def _choose_path(
    model: Any, checkpoint: Checkpoint, settings: EngineSettings
) -> tuple[PaddedPath | PackedPath, str]:
    """Return the way the model is called, and why."""
    if settings.attention == "padded":
        return PaddedPath(model, checkpoint), "asked for"
    try:
        return PackedPath(model, checkpoint), "equal to padded scores when it was loaded"
    except CannotPack as exc:
        if settings.attention == "packed":
            raise UnsupportedByEngine(
                f"{checkpoint.model!r} can't be scored without padding: {exc}"
            ) from exc
        return PaddedPath(model, checkpoint), str(exc)


def _encoder(checkpoint: Checkpoint, settings: EngineSettings) -> PairEncoder:
    """Read tokenizer.json; let transformers convert what is older than that."""
    if (checkpoint.folder / "tokenizer.json").exists():
        return PairEncoder.load(checkpoint, cached_tokens=settings.cached_tokens)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        checkpoint.folder,
        local_files_only=True,
        trust_remote_code=settings.trust_remote_code,
    )
    return PairEncoder(
        tokenizer.backend_tokenizer,
        max_length=checkpoint.max_length,
        cut_left=tokenizer.truncation_side == "left",
        uses_types=checkpoint.uses_types,
        cached_tokens=settings.cached_tokens,
    )


class TorchEngine:
    """Scores with a transformers model that stays on one device.

    Tokenising runs in the calling thread; the model is used by one thread at a time. A batch
    that does not fit into memory halves the budget for good and is planned anew.
    """

    def __init__(
        self, model: Any, encoder: PairEncoder, checkpoint: Checkpoint, settings: EngineSettings
    ) -> None:
        self._encoder = encoder
        self._checkpoint = checkpoint
        self._settings = settings
        self._path, self._path_reason = _choose_path(model, checkpoint, settings)
        self._wide_path: PaddedPath | PackedPath | None = None  # bfloat16, once float16 overflowed
        self._device: torch.device = model.device
        self._budget = settings.batch_tokens or _BATCH_TOKENS.get(
            self._device.type, _OTHER_BATCH_TOKENS
        )
        self._out_of_memory = 0
        self._overflows = 0
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        dtype = "tf32" if self._settings.dtype == "tf32" else self._dtype_name
        return f"torch-{dtype}"

    @property
    def _dtype_name(self) -> str:
        return str(self._path.model.dtype).removeprefix("torch.")

    def logits(self, requests: Sequence[Request]) -> list[list[float]]:
        scored = [self._score(pairs) for pairs in self._encoded(requests)]
        flat = iter(np.concatenate(scored).tolist() if scored else [])
        return [[next(flat) for _ in documents] for _, documents in requests]

    def describe(self) -> dict[str, object]:
        return {
            "engine": "torch",
            "device": self._device_name(),
            "dtype": self._dtype_name,
            "attention": self._path.name,
            "attention_reason": self._path_reason,
            "batch_tokens": self._budget,
            "out_of_memory": self._out_of_memory,
            "overflowed_pairs": self._overflows,
            **self._encoder.describe(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def close(self) -> None:
        del self._path
        self._wide_path = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _device_name(self) -> str:
        if self._device.type == "cuda":
            return f"{self._device} ({torch.cuda.get_device_name(self._device)})"
        return str(self._device)

    def _encoded(self, requests: Sequence[Request]) -> Iterator[Pairs]:
        """Yield encoded chunks, and encode the next one while the last is scored."""
        chunks = _chunks(requests)
        if len(chunks) < 2:  # noqa: PLR2004 - nothing to encode ahead
            yield from map(self._encoder.encode, chunks)
            return
        with ThreadPoolExecutor(1, "rerank-encode") as ahead:
            coming = ahead.submit(self._encoder.encode, chunks[0])
            for chunk in chunks[1:]:
                pairs = coming.result()
                coming = ahead.submit(self._encoder.encode, chunk)
                yield pairs
            yield coming.result()

    def _score(self, pairs: Pairs) -> NDArray[np.float64]:
        """Return the logits of encoded pairs; one copy to the device per batch, one back."""
        with self._lock, torch.inference_mode(), self._process_settings():
            logits = self._run(self._path, pairs)
            if self._path.model.dtype == torch.float16:
                overflowed = np.flatnonzero(~np.isfinite(logits))
                if len(overflowed):
                    self._overflows += len(overflowed)
                    logits[overflowed] = self._run(self._wide(), pairs.take(overflowed.tolist()))
        return logits

    def _run(self, path: PaddedPath | PackedPath, pairs: Pairs) -> NDArray[np.float64]:
        lengths: list[int] = pairs.lengths.tolist()
        batches = plan(lengths, self._budget, padded=path.padded, most=path.most)
        order: list[int] = []
        results: list[torch.Tensor] = []
        try:
            while batches:
                try:
                    results.append(path(pairs.take(batches[0])).float())
                except (RuntimeError, MemoryError) as exc:
                    if not is_out_of_memory(exc):
                        raise
                    batches = self._smaller(batches, lengths, path, exc)
                else:
                    order += batches.pop(0)
            logits = np.empty(len(pairs))
            logits[order] = torch.cat(results).cpu().numpy() if results else []
        except RuntimeError as exc:
            raise BackendError(
                f"the model {self._checkpoint.model!r} failed on {self._device}: {exc}"
            ) from exc
        return logits

    def _smaller(
        self,
        batches: list[list[int]],
        lengths: list[int],
        path: PaddedPath | PackedPath,
        exc: BaseException,
    ) -> list[list[int]]:
        """Halve the budget, and plan what is left."""
        self._out_of_memory += 1
        if len(batches[0]) == 1:
            raise BackendError(
                f"a pair of {lengths[batches[0][0]]} tokens does not fit into the memory of "
                f"{self._device}; lower `max_length`, choose a smaller model, or free memory"
            ) from exc
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        batch = [lengths[index] for index in batches[0]]
        taken = max(batch) * len(batch) if path.padded else sum(batch)
        self._budget = max(taken // 2, 1)
        _log.warning("out of memory on %s: batches now hold %d tokens", self._device, self._budget)
        left = [index for batch in batches for index in batch]
        again = plan([lengths[i] for i in left], self._budget, padded=path.padded, most=path.most)
        return [[left[i] for i in batch] for batch in again]

    def _wide(self) -> PaddedPath | PackedPath:
        """Return the model in bfloat16, for the pairs whose values are too large for float16."""
        if self._wide_path is None:
            _log.warning("float16 overflowed: such pairs are scored in bfloat16")
            model = load_model(self._checkpoint, self._device, torch.bfloat16, self._settings)
            self._wide_path, _ = _choose_path(model, self._checkpoint, self._settings)
        return self._wide_path

    @contextmanager
    def _process_settings(self) -> Iterator[None]:
        """Set what torch keeps per process, for the time of one call."""
        threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
        try:
            if self._settings.threads is not None:
                torch.set_num_threads(self._settings.threads)
            if self._settings.dtype == "tf32":
                torch.set_float32_matmul_precision("high")
            yield
        finally:
            if self._settings.threads is not None:
                torch.set_num_threads(threads)
            if self._settings.dtype == "tf32":
                torch.set_float32_matmul_precision(precision)


def _chunks(requests: Sequence[Request]) -> list[list[Request]]:
    """Split requests into chunks of a bounded number of pairs, in order."""
    chunks: list[list[Request]] = []
    room = 0
    for query, documents in requests:
        start = 0
        while start < len(documents):
            if not room:
                chunks.append([])
                room = _CHUNK
            part = documents[start : start + room]
            chunks[-1].append((query, part))
            start += len(part)
            room -= len(part)
    return chunks
