"""The torch engine: any reranker that transformers loads, on a CPU or on one or more GPUs."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from numpy.typing import NDArray

from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins.backends.local.answer_tokens import answer_token_ids
from rerank_plugins.backends.local.bi_encoder_engine import BiEncoderEngine
from rerank_plugins.backends.local.checkpoint import Checkpoint
from rerank_plugins.backends.local.engine import Engine, EngineSettings, EngineStats, Request
from rerank_plugins.backends.local.foreign_code import code_repositories
from rerank_plugins.backends.local.foreign_errors import reason_of
from rerank_plugins.backends.local.process_memory import release_memory
from rerank_plugins.backends.local.prompt_tokenizer import PromptTokenizer
from rerank_plugins.backends.local.text_tokenizer import TextTokenizer
from rerank_plugins.backends.local.tokenizer import Pairs, PairTokenizer, scores_by_request
from rerank_plugins.backends.local.torch.accelerators import choose_devices, free_cache
from rerank_plugins.backends.local.torch.devices import DevicePool
from rerank_plugins.backends.local.torch.forked import call_with_live_threads
from rerank_plugins.backends.local.torch.model import choose_dtype, limit_memory, load_model
from rerank_plugins.backends.local.torch.quantise import QUANTISED
from rerank_plugins.backends.local.torch.replica import Replica
from rerank_plugins.errors import BackendError
from rerank_plugins.scores import Scores

__all__ = ["TorchEngine", "TorchRunner", "load"]

_CHUNK = 4096  # pairs tokenised at once, while the model scores the previous ones


def load(checkpoint: Checkpoint, settings: EngineSettings) -> Engine:
    """Load a checkpoint with transformers, once per device.

    Raises:
        ConfigError: the device, the dtype or the checkpoint can't be used.
        BackendError: the model does not fit onto the device, or the device can't be used.
    """
    devices = choose_devices(settings.device)
    if checkpoint.bi_encoder is not None:
        texts = _load_text_tokenizer(checkpoint, settings)
        runner = TorchRunner(_load_replicas(checkpoint, devices, settings, []), settings)
        return BiEncoderEngine(
            runner,
            texts,
            checkpoint.bi_encoder,
            cached_tokens=settings.cached_tokens,
            best_windows=settings.best_windows,
            store=settings.vector_store,
            in_8_bits=settings.dtype in QUANTISED,
        )
    tokenizer, answers = _load_tokenizer(checkpoint, settings)
    return TorchEngine(_load_replicas(checkpoint, devices, settings, answers), tokenizer, settings)


def _load_replicas(
    checkpoint: Checkpoint,
    devices: Sequence[torch.device],
    settings: EngineSettings,
    answers: Sequence[int],
) -> list[Replica]:
    return [
        call_with_live_threads(_load_replica, checkpoint, device, settings, answers)
        for device in devices
    ]


def _load_replica(
    checkpoint: Checkpoint, device: torch.device, settings: EngineSettings, answers: Sequence[int]
) -> Replica:
    load_in = functools.partial(load_model, checkpoint, device, settings=settings, answers=answers)
    try:
        dtype = choose_dtype(settings.dtype, device, checkpoint)
        if settings.gpu_memory_fraction is not None:
            limit_memory(device, settings.gpu_memory_fraction)
        return Replica(load_in, dtype, checkpoint, settings)
    except (RuntimeError, MemoryError) as exc:
        raise BackendError(
            f"the model {checkpoint.model!r} can't start on {device}: {reason_of(exc)}"
        ) from exc


def _load_tokenizer(
    checkpoint: Checkpoint, settings: EngineSettings
) -> tuple[PairTokenizer | PromptTokenizer, list[int]]:
    """Return what tokenises pairs, and the tokens whose logits make the score.

    `tokenizer.json` is read as it is; older files and chat templates need transformers.
    """
    plain = checkpoint.prompt is None and checkpoint.answer_tokens is None
    if plain and (checkpoint.folder / "tokenizer.json").exists():
        plain_pairs = PairTokenizer.load(
            checkpoint, cached_tokens=settings.cached_tokens, long_documents=settings.windows
        )
        return plain_pairs, []
    tokenizer = _transformers_tokenizer(checkpoint, settings)
    answers = answer_token_ids(checkpoint, tokenizer.backend_tokenizer)
    if checkpoint.prompt is not None:
        prompts = PromptTokenizer(
            tokenizer,
            checkpoint.prompt,
            max_length=checkpoint.max_length,
            cached_tokens=settings.cached_tokens,
            long_documents=settings.windows,
        )
        return prompts, answers
    pairs = PairTokenizer(
        tokenizer.backend_tokenizer,
        max_length=checkpoint.max_length,
        cut_left=tokenizer.truncation_side == "left",
        uses_types=checkpoint.uses_types,
        cached_tokens=settings.cached_tokens,
        query_prefix=checkpoint.query_prefix,
        long_documents=settings.windows,
    )
    return pairs, answers


def _load_text_tokenizer(checkpoint: Checkpoint, settings: EngineSettings) -> TextTokenizer:
    """Return what tokenises single texts; older files need transformers."""
    if (checkpoint.folder / "tokenizer.json").exists():
        return TextTokenizer.load(checkpoint, long_documents=settings.windows)
    tokenizer = _transformers_tokenizer(checkpoint, settings)
    return TextTokenizer.load(
        checkpoint, tokenizer.backend_tokenizer, long_documents=settings.windows
    )


def _transformers_tokenizer(checkpoint: Checkpoint, settings: EngineSettings) -> Any:
    others = code_repositories(checkpoint.tokenizer_config)  # no commit of theirs is known
    return transformers.AutoTokenizer.from_pretrained(
        checkpoint.folder,
        local_files_only=True,
        trust_remote_code=settings.trust_remote_code and not others,
    )


class TorchRunner:
    """Runs a transformers model that stays on its devices.

    One thread at a time uses a device; several devices share the work.
    """

    def __init__(self, replicas: Sequence[Replica], settings: EngineSettings) -> None:
        self._replicas = replicas
        self._precision = _MatmulPrecision("high" if settings.dtype == "tf32" else None)
        self._dtype = "tf32" if settings.dtype == "tf32" else None
        self._device_pool = DevicePool(replicas) if len(replicas) > 1 else None
        self._gpus = [replica.device for replica in replicas if replica.device.type != "cpu"]
        self._process_id = os.getpid()

    @property
    def name(self) -> str:
        dtypes = sorted({replica.dtype for replica in self._replicas})
        return f"torch-{self._dtype or '+'.join(dtypes)}"

    def run(self, pairs: Pairs) -> NDArray[Any]:
        """Return the logits of the pairs, [n], or vectors, [n, width]."""
        self._check_process()
        with self._precision.hold():
            return self._score(pairs)

    def describe(self) -> dict[str, object]:
        devices = [replica.describe() for replica in self._replicas]
        return {
            "engine": "torch",
            **devices[0],
            **({"devices": devices} if self._device_pool else {}),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    def stats(self) -> EngineStats:
        return EngineStats(
            sum(replica.tokens for replica in self._replicas),
            sum(replica.padding for replica in self._replicas),
        )

    def memory(self) -> dict[str, int]:
        """Return the bytes of all devices together."""
        per_device = [replica.memory() for replica in self._replicas]
        return {kind: sum(memory[kind] for memory in per_device) for kind in per_device[0]}

    def close(self) -> None:
        if self._device_pool is not None:
            self._device_pool.close()
        for replica in self._replicas:
            replica.close()
        gc.collect()  # a model is a circle of references
        for replica in self._replicas:
            free_cache(replica.device)
        release_memory()

    def _score(self, pairs: Pairs) -> NDArray[Any]:
        return call_with_live_threads((self._device_pool or self._replicas[0]).score, pairs)

    def _check_process(self) -> None:
        """Check that no GPU is used in a forked child.

        Raises:
            BackendError: one would be.
        """
        if self._gpus and os.getpid() != self._process_id:
            raise BackendError(
                f"the model is on {self._gpus[0]} for process {self._process_id}, and no GPU "
                'survives a fork; start processes with "spawn", or fork before the first score'
            )


class TorchEngine(TorchRunner):
    """Scores pairs; the calling thread tokenises."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        tokenizer: PairTokenizer | PromptTokenizer,
        settings: EngineSettings,
    ) -> None:
        super().__init__(replicas, settings)
        self._tokenizer = tokenizer

    def logits(self, requests: Sequence[Request]) -> list[Scores]:
        self._check_process()
        chunks: list[Pairs] = []
        logits: list[float] = []
        with self._precision.hold():
            for pairs in self._tokenized(requests):
                chunks.append(pairs)
                logits += self._score(pairs).tolist()
        return scores_by_request(requests, chunks, logits)

    def describe(self) -> dict[str, object]:
        return {**super().describe(), **self._tokenizer.describe()}

    def _tokenized(self, requests: Sequence[Request]) -> Iterator[Pairs]:
        """Yield tokenised chunks, each tokenised while the previous one is scored."""
        chunks = _chunks(requests)
        if len(chunks) < 2:  # noqa: PLR2004 - nothing to encode ahead
            yield from map(self._tokenizer.encode, chunks)
            return
        with ThreadPoolExecutor(1, "rerank-tokenize") as worker:
            next_pairs = worker.submit(self._tokenizer.encode, chunks[0])
            for chunk in chunks[1:]:
                pairs = next_pairs.result()
                next_pairs = worker.submit(self._tokenizer.encode, chunk)
                yield pairs
            yield next_pairs.result()


class _MatmulPrecision:
    """Sets torch's precision of float32 products during calls; it is global to the process.

    Several threads may hold it; the last one restores the precision from before the first.
    """

    def __init__(self, precision: str | None) -> None:
        self._precision = precision
        self._before = ""
        self._holders = 0
        self._lock = ForkSafeLock()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold it for one call."""
        if self._precision is None:
            yield
            return
        with self._lock:
            if not self._holders:
                self._before = torch.get_float32_matmul_precision()
                torch.set_float32_matmul_precision(self._precision)
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
