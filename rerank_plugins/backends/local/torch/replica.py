"""A model on one device: its batches, and recovery when memory runs out or values overflow."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from rerank_plugins._internal.cpu import usable_cpus
from rerank_plugins._internal.locks import ForkSafeLock
from rerank_plugins.backends.local.checkpoint import Checkpoint
from rerank_plugins.backends.local.engine import EngineSettings
from rerank_plugins.backends.local.out_of_memory import is_out_of_memory
from rerank_plugins.backends.local.process_memory import resident_memory
from rerank_plugins.backends.local.tokenizer import Pairs
from rerank_plugins.backends.local.torch.accelerators import free_cache, full_name, memory_of
from rerank_plugins.backends.local.torch.batch_plan import plan_batches, tokens_in_batch
from rerank_plugins.backends.local.torch.batch_size import find_batch_size
from rerank_plugins.backends.local.torch.forward import Forward, choose_forward, overflows
from rerank_plugins.backends.local.torch.quantise import QUANTISED, weight_bytes
from rerank_plugins.errors import BackendError, BackendOutOfMemory
from rerank_plugins.scheduler import BatchLimit

__all__ = ["Replica"]

_log = logging.getLogger(__name__)

Load: TypeAlias = Callable[[torch.dtype], Any]
"""Loads the model onto the device in a dtype."""


class Replica:
    """Scores tokenised pairs with a model that stays on one device, one call at a time.

    When a batch does not fit into memory, the batch size is halved and the rest is planned again.
    It grows back after a while, or at once if a single pair turns out to be too large. If values
    are too large for float16, the model is loaded in bfloat16 as well.

    Args:
        load: loads the model.
        dtype: the dtype to start with.
        checkpoint: what `load` reads.
        settings: what the user chose.

    Raises:
        ConfigError: the model can't be loaded, or can't run with these settings.
        BackendError: it does not fit onto the device.
    """

    def __init__(
        self, load: Load, dtype: torch.dtype, checkpoint: Checkpoint, settings: EngineSettings
    ) -> None:
        self._load = load
        self._checkpoint = checkpoint
        self._settings = settings
        model = load(dtype)
        chosen = settings.dtype in ("auto", *QUANTISED)
        if chosen and dtype == torch.float16 and overflows(model, checkpoint):
            model = load(torch.bfloat16)
        self.device: torch.device = model.device
        self._weight_bytes = weight_bytes(model)
        self.forward, self._forward_reason = choose_forward(model, checkpoint, settings)
        self._bfloat16_forward: Forward | None = None  # once float16 has overflowed
        batch_tokens, self._batch_tokens_reason = (
            (settings.batch_tokens, "set by `batch_tokens`")
            if settings.batch_tokens
            else find_batch_size(self.forward, checkpoint, settings.gpu_memory_fraction or 1.0)
        )
        self._limit = BatchLimit(batch_tokens)
        self._out_of_memory = 0
        self._overflows = 0
        self._cpus = usable_cpus()
        self._lock = ForkSafeLock()
        self.tokens = 0
        """Tokens that the model has read so far, padding included."""
        self.padding = 0
        """How many of these only filled up batches."""

    @property
    def batch_tokens(self) -> int:
        """The most tokens of a batch now."""
        return self._limit.cost

    @property
    def dtype(self) -> str:
        """The dtype of the layers, as `"float16"`, or `"int8-float16"` of weights in 8 bits."""
        computes_in = str(self.forward.dtype).removeprefix("torch.")
        chosen = self._settings.dtype
        return f"{chosen}-{computes_in}" if chosen in QUANTISED else computes_in

    @property
    def gives_tokens(self) -> bool:
        """Whether the model gives a vector for each compared token."""
        chain = self._checkpoint.chain
        return chain is not None and chain.pooling == "tokens"

    def score(self, pairs: Pairs) -> NDArray[Any]:
        """Return the logits of tokenised pairs, [n]; of a bi-encoder its vectors, [n, width].

        There is one copy to the device per batch, and one back in all.

        Raises:
            BackendError: the model failed, or a single pair does not fit into memory.
        """
        with self._lock, torch.inference_mode(), self._own_settings():
            rows = self._run(self.forward, pairs)
            if self.forward.dtype == torch.float16:
                owners = np.arange(len(pairs))
                if self.gives_tokens:
                    owners = np.repeat(owners, pairs.compared_counts)
                finite = np.isfinite(rows) if rows.ndim == 1 else np.isfinite(rows).all(axis=1)
                overflowed = np.unique(owners[~finite])
                if len(overflowed):
                    self._overflows += len(overflowed)
                    rows[np.isin(owners, overflowed)] = self._run(
                        self._in_bfloat16(), pairs.take(overflowed.tolist())
                    )
        return rows

    def describe(self) -> dict[str, object]:
        """Return how this device scores, as JSON-ready facts."""
        return {
            "device": full_name(self.device),
            "dtype": self.dtype,
            "weight_bytes": self._weight_bytes,
            "attention": self.forward.name,
            "attention_reason": self._forward_reason,
            **self.forward.facts,
            "batch_tokens": self.batch_tokens,
            "batch_tokens_reason": (
                "halved when memory ran out"
                if self._limit.is_lowered
                else self._batch_tokens_reason
            ),
            "out_of_memory": self._out_of_memory,
            "overflowed_pairs": self._overflows,
        }

    def memory(self) -> dict[str, int]:
        """Return the bytes that this process takes of the device's memory, or of the machine's."""
        memory = memory_of(self.device)
        if memory is None:
            return resident_memory()
        stats = memory.memory_stats(self.device)  # from the allocator, not the driver
        return {
            "allocated": stats.get("allocated_bytes.all.current", 0),
            "reserved": stats.get("reserved_bytes.all.current", 0),
            "peak": stats.get("allocated_bytes.all.peak", 0),
        }

    def close(self) -> None:
        """Let go of the model."""
        del self.forward
        self._bfloat16_forward = None

    def _run(self, forward: Forward, pairs: Pairs) -> NDArray[Any]:
        self._limit.grow()
        before = self._limit.cost
        batches = self._plan(forward, pairs, list(range(len(pairs))))
        order: list[int] = []
        results: list[torch.Tensor] = []
        try:
            while batches:
                try:
                    results.append(forward(pairs.take(batches[0])).float())
                except (RuntimeError, MemoryError) as exc:
                    if not is_out_of_memory(exc):
                        raise
                    self._shrink(batches[0], pairs, forward, exc)
                    remaining = [index for batch in batches for index in batch]
                    batches = self._plan(forward, pairs, remaining)
                else:
                    self._count(batches[0], pairs, forward)
                    order += batches.pop(0)
            rows = torch.cat(results).cpu().numpy() if results else np.zeros(0)
        except BackendOutOfMemory:  # a single pair's fault, and not of the batches that it was in
            self._limit.restore(before)
            raise
        except RuntimeError as exc:
            raise BackendError(
                f"the model {self._checkpoint.model!r} failed on {self.device}: {exc}"
            ) from exc
        if rows.ndim == 1:
            rows = rows.astype(np.float64)
        return pairs.in_order(order, rows, of_tokens=self.gives_tokens)

    def _count(self, batch: list[int], pairs: Pairs, forward: Forward) -> None:
        lengths = pairs.lengths[batch].tolist()
        tokens = tokens_in_batch(range(len(batch)), lengths, padded=forward.padded)
        self.tokens += tokens
        self.padding += tokens - sum(lengths)

    def _plan(self, forward: Forward, pairs: Pairs, indices: list[int]) -> list[list[int]]:
        groups, shared = _sharing(forward, pairs, indices)
        batches = plan_batches(
            pairs.lengths[indices].tolist(),
            self.batch_tokens,
            padded=forward.padded,
            max_pairs=forward.max_pairs,
            groups=groups,
            shared=shared,
        )
        return [[indices[i] for i in batch] for batch in batches]

    def _shrink(self, batch: list[int], pairs: Pairs, forward: Forward, exc: BaseException) -> None:
        """Halve the batch size.

        Raises:
            BackendOutOfMemory: the batch is a single pair.
        """
        self._out_of_memory += 1
        lengths = pairs.lengths[batch].tolist()
        if len(batch) == 1:
            raise BackendOutOfMemory(
                f"a pair of {lengths[0]} tokens does not fit into the memory of "
                f"{self.device}; lower `max_length`, choose a smaller model, or free memory"
            ) from exc
        free_cache(self.device)
        groups, shared = _sharing(forward, pairs, batch)
        tokens = tokens_in_batch(
            range(len(batch)), lengths, padded=forward.padded, groups=groups, shared=shared
        )
        self._limit.shrink(tokens // 2)
        _log.warning(
            "out of memory on %s: batches now hold %d tokens", self.device, self.batch_tokens
        )

    def _in_bfloat16(self) -> Forward:
        """Return the model in bfloat16, for pairs whose values are too large for float16."""
        if self._bfloat16_forward is None:
            _log.warning("float16 overflowed: the affected pairs are scored in bfloat16")
            model = self._load(torch.bfloat16)
            self._bfloat16_forward, _ = choose_forward(model, self._checkpoint, self._settings)
        return self._bfloat16_forward

    @contextmanager
    def _own_settings(self) -> Iterator[None]:
        """Set torch's settings of this thread for one call."""
        before = torch.get_num_threads()
        threads = self._settings.threads or min(before, self._cpus)
        if threads != before:
            torch.set_num_threads(threads)
        try:
            with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
                yield
        finally:
            if threads != before:
                torch.set_num_threads(before)


def _sharing(
    forward: Forward, pairs: Pairs, indices: Sequence[int]
) -> tuple[list[int] | None, list[int] | None]:
    """Return the groups of these pairs and how many tokens they share, if `forward` uses that."""
    if not forward.shares or pairs.groups is None or pairs.shared is None:
        return None, None
    return pairs.groups[indices].tolist(), pairs.shared[indices].tolist()
