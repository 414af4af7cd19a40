"""The torch engine: any reranker of transformers, on one or several GPUs, or a CPU."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins.backends.local.answer_tokens import answer_token_ids
from rerank_plugins.backends.local.checkpoint import Checkpoint
from rerank_plugins.backends.local.engine import EngineSettings, EngineStats, Request
from rerank_plugins.backends.local.prompt_tokenizer import PromptTokenizer
from rerank_plugins.backends.local.tokenizer import Pairs, PairTokenizer
from rerank_plugins.backends.local.torch.devices import DevicePool
from rerank_plugins.backends.local.torch.model import (
    choose_devices,
    choose_dtype,
    limit_memory,
    load_model,
)
from rerank_plugins.backends.local.torch.replica import Replica
from rerank_plugins.errors import BackendError

__all__ = ["TorchEngine", "load"]

_CHUNK = 4096  # pairs encoded at once, while the model scores the ones before


def load(checkpoint: Checkpoint, settings: EngineSettings) -> TorchEngine:
    """Load a checkpoint with transformers, once per device.

    Raises:
        ConfigError: the device, the dtype or the checkpoint can't be used.
        BackendError: the model does not fit onto the device.
    """
    devices = choose_devices(settings.device)
    dtypes = [choose_dtype(settings.dtype, device, checkpoint) for device in devices]
    encoder, answers = _encoder(checkpoint, settings)
    replicas = []
    for device, dtype in zip(devices, dtypes, strict=True):
        if settings.gpu_memory_fraction is not None:
            limit_memory(device, settings.gpu_memory_fraction)
        loads = functools.partial(
            load_model, checkpoint, device, settings=settings, answers=answers
        )
        try:
            replicas.append(Replica(loads, dtype, checkpoint, settings))
        except (RuntimeError, MemoryError) as exc:
            raise BackendError(
                f"the model {checkpoint.model!r} can't be started on {device}: {exc}"
            ) from exc
    return TorchEngine(replicas, encoder, settings)


def _encoder(
    checkpoint: Checkpoint, settings: EngineSettings
) -> tuple[PairTokenizer | PromptTokenizer, list[int]]:
    """Return what encodes pairs, and the tokens whose logits are wanted.

    tokenizer.json is read as it is; what is older, and chat templates, need transformers.
    """
    plain = checkpoint.prompt is None and checkpoint.answer_tokens is None
    if plain and (checkpoint.folder / "tokenizer.json").exists():
        return PairTokenizer.load(checkpoint, cached_tokens=settings.cached_tokens), []
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        checkpoint.folder,
        local_files_only=True,
        trust_remote_code=settings.trust_remote_code,
    )
    answers = answer_token_ids(checkpoint, tokenizer.backend_tokenizer)
    if checkpoint.prompt is not None:
        prompts = PromptTokenizer(
            tokenizer,
            checkpoint.prompt,
            max_length=checkpoint.max_length,
            cached_tokens=settings.cached_tokens,
        )
        return prompts, answers
    pairs = PairTokenizer(
        tokenizer.backend_tokenizer,
        max_length=checkpoint.max_length,
        cut_left=tokenizer.truncation_side == "left",
        uses_types=checkpoint.uses_types,
        cached_tokens=settings.cached_tokens,
        query_prefix=checkpoint.query_prefix,
    )
    return pairs, answers


class TorchEngine:
    """Scores with a transformers model that stays on its devices.

    Tokenising runs in the calling thread. Each device is used by one thread at a time; several
    share the work.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        encoder: PairTokenizer | PromptTokenizer,
        settings: EngineSettings,
    ) -> None:
        self._replicas = replicas
        self._encoder = encoder
        self._precision = _Precision("high" if settings.dtype == "tf32" else None)
        self._dtype = "tf32" if settings.dtype == "tf32" else None
        self._device_pool = DevicePool(replicas) if len(replicas) > 1 else None

    @property
    def name(self) -> str:
        dtypes = sorted({replica.dtype for replica in self._replicas})
        return f"torch-{self._dtype or '+'.join(dtypes)}"

    def logits(self, requests: Sequence[Request]) -> list[list[float]]:
        with self._precision.held():
            scored = [self._score(pairs) for pairs in self._encoded(requests)]
        flat = iter(np.concatenate(scored).tolist() if scored else [])
        return [[next(flat) for _ in documents] for _, documents in requests]

    def describe(self) -> dict[str, object]:
        devices = [replica.describe() for replica in self._replicas]
        return {
            "engine": "torch",
            **devices[0],
            **({"devices": devices} if self._device_pool else {}),
            **self._encoder.describe(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def stats(self) -> EngineStats:
        return EngineStats(
            self._encoder.truncated_pairs,
            sum(replica.tokens for replica in self._replicas),
            sum(replica.padding for replica in self._replicas),
        )

    def memory(self) -> dict[str, int]:
        """Return the bytes of all devices together."""
        found = [replica.memory() for replica in self._replicas]
        return {kind: sum(each[kind] for each in found) for kind in found[0]}

    def close(self) -> None:
        if self._device_pool is not None:
            self._device_pool.close()
        for replica in self._replicas:
            replica.close()

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
        return (self._device_pool or self._replicas[0]).score(pairs)


class _Precision:
    """Holds torch's precision of float32 products, which is one per process, while it is used.

    Several threads may hold it; the last one restores what the first one found.
    """

    def __init__(self, wanted: str | None) -> None:
        self._wanted = wanted
        self._before = ""
        self._holders = 0
        self._lock = ForkSafeLock()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it for the time of one call."""
        if self._wanted is None:
            yield
            return
        with self._lock:
            if not self._holders:
                self._before = torch.get_float32_matmul_precision()
                torch.set_float32_matmul_precision(self._wanted)
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if not self._holders:
                    torch.set_float32_matmul_precision(self._before)


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
