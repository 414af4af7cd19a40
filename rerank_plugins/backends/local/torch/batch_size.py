"""Batch size: how many tokens a batch may hold on a device, measured when the model loads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from rerank_plugins.backends.local.checkpoint import Checkpoint
from rerank_plugins.backends.local.out_of_memory import is_out_of_memory
from rerank_plugins.backends.local.tokenizer import Pairs
from rerank_plugins.backends.local.torch.accelerators import memory_of

__all__ = ["find_batch_size"]

_BUSY = {"cpu": 4096, "cuda": 65_536}
"""Device → tokens of a batch that keeps it busy; more only costs memory."""
_BUSY_ELSEWHERE = 8192

_MEASURED = 8192  # tokens of the batch whose memory is measured
_LEAST = 512
_SHARE_OF_FREE = 0.8  # the rest is for fragments and for other users of the device


class Memory(Protocol):
    """The memory of a device, in bytes."""

    def free(self) -> int:
        """Return what this process may still allocate."""

    def used(self) -> int:
        """Return what tensors use now."""

    def peak(self) -> int:
        """Return the most that tensors used since the last `restart`."""

    def restart(self) -> None:
        """Start watching the peak again."""


class _DeviceMemory:
    def __init__(self, module: Any, device: torch.device, fraction: float) -> None:
        self._module = module
        self._device = device
        self._fraction = fraction

    def free(self) -> int:
        self._module.empty_cache()
        free, total = self._module.mem_get_info(self._device)
        reserved = self._module.memory_reserved(self._device)
        return max(min(int(free), int(total * self._fraction) - int(reserved)), 0)

    def used(self) -> int:
        return int(self._module.memory_allocated(self._device))

    def peak(self) -> int:
        self._module.synchronize(self._device)
        return int(self._module.max_memory_allocated(self._device))

    def restart(self) -> None:
        self._module.reset_peak_memory_stats(self._device)


def find_batch_size(forward: Any, checkpoint: Checkpoint, fraction: float) -> tuple[int, str]:
    """Return the most tokens of a batch on the model's device, and the reason.

    Where torch tells of the device's memory, this measures what a token of a batch takes; elsewhere
    memory is not the limit.

    Args:
        forward: runs the model.
        checkpoint: says how long a pair may be.
        fraction: the share of a GPU's memory that this process may use.
    """
    device = forward.model.device
    busy = _BUSY.get(device.type, _BUSY_ELSEWHERE)
    memory = memory_of(device)
    if memory is None:
        return busy, "keeps the device busy"
    vocabulary = forward.model.config.get_text_config().vocab_size

    def run(tokens: int) -> None:
        with torch.inference_mode():
            forward(_batch(tokens, min(checkpoint.max_length, tokens), vocabulary))

    return measure_batch_size(run, _DeviceMemory(memory, device, fraction), busy)


def measure_batch_size(run: Callable[[int], None], memory: Memory, busy: int) -> tuple[int, str]:
    """Return the most tokens of a batch, and the reason.

    Args:
        run: scores a batch of this many tokens.
        memory: of the device that `run` uses.
        busy: tokens above which a batch is not faster.
    """
    tokens = min(_MEASURED, busy)
    while tokens > _LEAST:
        try:
            run(_LEAST)  # kernels allocate once, which is not to be measured
            memory.restart()
            before = memory.used()
            run(tokens)
        except (RuntimeError, MemoryError) as exc:
            if not is_out_of_memory(exc):
                raise
            tokens //= 2
            continue
        per_token = max((memory.peak() - before) / tokens, 1.0)
        fits = int(memory.free() * _SHARE_OF_FREE / per_token)
        if fits >= busy:
            return busy, "keeps the device busy"
        return max(fits, _LEAST), f"fits into free memory at {per_token:,.0f} bytes per token"
    return _LEAST, "hardly any memory is free"


def _batch(tokens: int, length: int, vocabulary: int) -> Pairs:
    """Return pairs of one length with about this many tokens in total."""
    count = max(tokens // length, 1)
    ids = np.random.default_rng(0).integers(0, vocabulary, count * length).astype(np.int32)
    return Pairs(ids, np.zeros_like(ids), np.arange(count + 1) * length)
