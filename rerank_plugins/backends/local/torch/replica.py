"""A model on one device: its batches, what it does when memory runs out or numbers overflow."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from rerank_plugins.backends.local.checkpoint import Checkpoint
from rerank_plugins.backends.local.engine import EngineSettings
from rerank_plugins.backends.local.tokenizer import Pairs
from rerank_plugins.backends.local.torch.batch_plan import plan, tokens_taken
from rerank_plugins.backends.local.torch.batch_size import find_budget
from rerank_plugins.backends.local.torch.forward import Path, choose_path, overflows
from rerank_plugins.backends.local.torch.memory import resident_memory
from rerank_plugins.backends.local.torch.model import is_out_of_memory
from rerank_plugins.errors import BackendError, BackendOutOfMemory

__all__ = ["Replica"]

_log = logging.getLogger(__name__)

Load: TypeAlias = Callable[[torch.dtype], Any]
"""Loads the model onto the device in a dtype."""


class Replica:
    """Scores encoded pairs with a model that stays on one device, one call at a time.

    A batch that does not fit into memory halves the budget for good and is planned anew. A model
    whose values are too large for float16 is loaded in bfloat16 as well.

    Args:
        load: loads the model.
        dtype: the dtype to begin with.
        checkpoint: what `load` reads.
        settings: what the user chose.

    Raises:
        ConfigError: the model can't be loaded, or can't be run as the settings ask.
        BackendError: it does not fit onto the device.
    """

    def __init__(
        self, load: Load, dtype: torch.dtype, checkpoint: Checkpoint, settings: EngineSettings
    ) -> None:
        self._load = load
        self._checkpoint = checkpoint
        self._settings = settings
        model = load(dtype)
        if settings.dtype == "auto" and dtype == torch.float16 and overflows(model, checkpoint):
            model = load(torch.bfloat16)
        self.device: torch.device = model.device
        self.path, self._path_reason = choose_path(model, checkpoint, settings)
        self._wide_path: Path | None = None  # bfloat16, once float16 overflowed
        self.budget, self._budget_reason = (
            (settings.batch_tokens, "asked for")
            if settings.batch_tokens
            else find_budget(self.path, checkpoint, settings.gpu_memory_fraction or 1.0)
        )
        self._out_of_memory = 0
        self._overflows = 0
        self._lock = threading.Lock()
        self.tokens = 0
        """What the model read so far, padding included."""
        self.padding = 0
        """How many of these filled up batches."""

    @property
    def dtype(self) -> str:
        """The dtype of the layers, as `"float16"`."""
        return str(self.path.dtype).removeprefix("torch.")

    def score(self, pairs: Pairs) -> NDArray[np.float64]:
        """Return the logits of encoded pairs; one copy to the device per batch, one back.

        Raises:
            BackendError: the model failed, or a single pair does not fit into memory.
        """
        with self._lock, torch.inference_mode(), self._own_settings():
            logits = self._run(self.path, pairs)
            if self.path.dtype == torch.float16:
                overflowed = np.flatnonzero(~np.isfinite(logits))
                if len(overflowed):
                    self._overflows += len(overflowed)
                    logits[overflowed] = self._run(self._wide(), pairs.take(overflowed.tolist()))
        return logits

    def describe(self) -> dict[str, object]:
        """Say how this device scores, as JSON-ready facts."""
        name = str(self.device)
        if self.device.type == "cuda":
            name += f" ({torch.cuda.get_device_name(self.device)})"
        return {
            "device": name,
            "dtype": self.dtype,
            "attention": self.path.name,
            "attention_reason": self._path_reason,
            **self.path.facts,
            "batch_tokens": self.budget,
            "batch_tokens_reason": self._budget_reason,
            "out_of_memory": self._out_of_memory,
            "overflowed_pairs": self._overflows,
        }

    def memory(self) -> dict[str, int]:
        """Return the bytes that this process takes of the device's memory, or of the machine's."""
        if self.device.type != "cuda":
            return resident_memory()
        found = torch.cuda.memory_stats(self.device)  # asks the allocator, not the driver
        return {
            "allocated": found.get("allocated_bytes.all.current", 0),
            "reserved": found.get("reserved_bytes.all.current", 0),
            "peak": found.get("allocated_bytes.all.peak", 0),
        }

    def close(self) -> None:
        """Free the model."""
        del self.path
        self._wide_path = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _run(self, path: Path, pairs: Pairs) -> NDArray[np.float64]:
        lengths: list[int] = pairs.lengths.tolist()
        left = list(range(len(lengths)))
        batches = self._plan(path, pairs, left)
        order: list[int] = []
        results: list[torch.Tensor] = []
        try:
            while batches:
                try:
                    results.append(path(pairs.take(batches[0])).float())
                except (RuntimeError, MemoryError) as exc:
                    if not is_out_of_memory(exc):
                        raise
                    self._shrink(batches[0], pairs, path, exc)
                    left = [index for batch in batches for index in batch]
                    batches = self._plan(path, pairs, left)
                else:
                    self._count(batches[0], pairs, path)
                    order += batches.pop(0)
            logits = np.empty(len(pairs))
            logits[order] = torch.cat(results).cpu().numpy() if results else []
        except RuntimeError as exc:
            raise BackendError(
                f"the model {self._checkpoint.model!r} failed on {self.device}: {exc}"
            ) from exc
        return logits

    def _count(self, batch: list[int], pairs: Pairs, path: Path) -> None:
        taken = tokens_taken(batch, pairs.lengths.tolist(), padded=path.padded)
        self.tokens += taken
        self.padding += taken - int(pairs.lengths[batch].sum())

    def _plan(self, path: Path, pairs: Pairs, indices: list[int]) -> list[list[int]]:
        part = pairs.take(indices)
        groups, shared = _sharing(path, part)
        batches = plan(
            part.lengths.tolist(),
            self.budget,
            padded=path.padded,
            most=path.most,
            groups=groups,
            shared=shared,
        )
        return [[indices[i] for i in batch] for batch in batches]

    def _shrink(self, batch: list[int], pairs: Pairs, path: Path, exc: BaseException) -> None:
        """Halve the budget."""
        self._out_of_memory += 1
        lengths = pairs.lengths.tolist()
        if len(batch) == 1:
            raise BackendOutOfMemory(
                f"a pair of {lengths[batch[0]]} tokens does not fit into the memory of "
                f"{self.device}; lower `max_length`, choose a smaller model, or free memory"
            ) from exc
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        groups, shared = _sharing(path, pairs)
        taken = tokens_taken(batch, lengths, padded=path.padded, groups=groups, shared=shared)
        self.budget = max(taken // 2, 1)
        self._budget_reason = "halved when memory ran out"
        _log.warning("out of memory on %s: batches now hold %d tokens", self.device, self.budget)

    def _wide(self) -> Path:
        """Return the model in bfloat16, for the pairs whose values are too large for float16."""
        if self._wide_path is None:
            _log.warning("float16 overflowed: such pairs are scored in bfloat16")
            model = self._load(torch.bfloat16)
            self._wide_path, _ = choose_path(model, self._checkpoint, self._settings)
        return self._wide_path

    @contextmanager
    def _own_settings(self) -> Iterator[None]:
        """Set what torch keeps per thread, for the time of one call."""
        before = torch.get_num_threads()
        if self._settings.threads is not None:
            torch.set_num_threads(self._settings.threads)
        try:
            with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
                yield
        finally:
            if self._settings.threads is not None:
                torch.set_num_threads(before)


def _sharing(path: Path, pairs: Pairs) -> tuple[list[int] | None, list[int] | None]:
    if not path.shares or pairs.groups is None or pairs.shared is None:
        return None, None
    return pairs.groups.tolist(), pairs.shared.tolist()
