"""Small batches as recorded CUDA graphs, which replace hundreds of launches by one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from rerank_plugins.backends.local.engine import UnsupportedByEngine
from rerank_plugins.backends.local.tokenizer import Pairs
from rerank_plugins.backends.local.torch.packed import PackedForward
from rerank_plugins.backends.local.torch.packing import Pack, rounded_up

__all__ = ["CUDAGraphForward", "record"]

_log = logging.getLogger(__name__)

_BUCKETS = (512, 1024, 2048, 3072, 4096, 6144, 8192)
"""Sizes in tokens that graphs are recorded for; larger batches keep the GPU busy anyway."""

_MAX_PAIRS = 64

Recording: TypeAlias = tuple[Callable[[], None], torch.Tensor]
"""A function that replays the recorded work, and the tensor that holds its result."""

Record: TypeAlias = Callable[[Callable[[], torch.Tensor]], Recording]


def record(work: Callable[[], torch.Tensor]) -> Recording:
    """Record what `work` does on the GPU; it must neither wait for results nor move its inputs."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # not ours
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # libraries initialise in their first calls
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph.replay, result


@dataclass(slots=True)
class _Bucket:
    """The memory that one recorded graph reads and writes, and the graph."""

    on_host: torch.Tensor
    on_device: torch.Tensor
    replay: Callable[[], None]
    result: torch.Tensor


class CUDAGraphForward:
    """Runs small batches through CUDA graphs, and others without.

    There is one graph per bucket of tokens, recorded when a batch first needs it. A batch is padded
    to the size of its bucket, with tokens that belong to no pair and with empty sequences; their
    results are arbitrary and never read.

    Args:
        packed: the packed model.
        longest: tokens of the longest pair.
        record: records a graph.

    Raises:
        UnsupportedByEngine: the model pools over all rows, so the shape depends on the pairs.
    """

    name = "packed"
    padded = False
    max_pairs = None

    def __init__(self, packed: PackedForward, *, longest: int, record: Record = record) -> None:
        if packed.pooling in ("mean", "tokens"):
            raise UnsupportedByEngine("`cuda_graphs` needs a model that reads one row per pair")
        self.model = packed.model
        self.dtype = packed.dtype
        self.shares = packed.shares
        self._packed = packed
        self._longest = rounded_up(longest)
        self._record = record
        self._buckets: dict[int, _Bucket] = {}

    @property
    def facts(self) -> dict[str, object]:
        """The optimisations in use, and the sizes recorded so far."""
        return {**self._packed.facts, "cuda_graphs": sorted(self._buckets)}

    def __call__(self, pairs: Pairs) -> torch.Tensor:
        """Return the logits of the pairs, [n], on the model's device."""
        fits = pairs.attended is None and len(pairs) <= _MAX_PAIRS
        if fits and len(pairs.ids) < _BUCKETS[-1]:
            pack = self._packed.pack(pairs)
            if not pack.longest_key:  # a shared prefix has no layout of fixed size
                return self._replayed(pack)
        return self._packed(pairs)

    def _replayed(self, pack: Pack) -> torch.Tensor:
        # At least one token is left over, for empty sequences to point at.
        size = next(bucket for bucket in _BUCKETS if bucket > len(pack.ids))
        bucket = self._buckets.get(size)
        if bucket is None:
            bucket = self._buckets[size] = self._recorded(size, pack)
        bucket.on_host.copy_(_filled(pack, size))
        bucket.on_device.copy_(bucket.on_host, non_blocking=True)
        bucket.replay()
        # Copied, since the next batch overwrites the result; waited for, since it also overwrites
        # the host memory.
        scores = bucket.result[: len(pack.rows)].clone()
        if scores.is_cuda:
            torch.cuda.current_stream(scores.device).synchronize()
        return scores

    def _recorded(self, size: int, pack: Pack) -> _Bucket:
        on_host = _filled(pack, size)
        device = self.model.device
        if device.type == "cuda":
            on_host = on_host.pin_memory()
        on_device = on_host.to(device, copy=True)
        parts = torch.split(on_device, _sizes(size))
        longest = min(self._longest, rounded_up(size))
        replay, result = self._record(lambda: self._packed.run(parts, longest))
        _log.info("recorded a CUDA graph for %d tokens", size)
        return _Bucket(on_host, on_device, replay, result)


def _sizes(size: int) -> list[int]:
    return [size, size, size, _MAX_PAIRS + 1, _MAX_PAIRS, 0, 0]


def _filled(pack: Pack, size: int) -> torch.Tensor:
    """Return the arrays of a pack, each padded to its size in a bucket."""
    used = len(pack.ids)
    parts: Sequence[np.ndarray[tuple[int], np.dtype[np.integer]]] = pack.arrays
    filled = np.zeros(sum(_sizes(size)), dtype=np.int32)
    start = 0
    for part, room in zip(parts, _sizes(size), strict=True):
        filled[start : start + len(part)] = part
        if part is pack.offsets:
            filled[start + len(part) : start + room] = used
        start += room
    return torch.from_numpy(filled)
