"""A pool of devices that share the work of one model."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.backends.local.tokenizer import Pairs
from rerank_plugins.backends.local.torch.batch_plan import plan_batches

__all__ = ["DevicePool", "Worker"]

_LEAST = 2048  # tokens below which splitting a call does not pay


class Worker(Protocol):
    """Scores tokenised pairs on one device."""

    @property
    def batch_tokens(self) -> int:
        """The most tokens in one of its batches."""

    @property
    def gives_tokens(self) -> bool:
        """Whether it gives a vector for each compared token."""

    def score(self, pairs: Pairs) -> NDArray[Any]:
        """Return the logits of the pairs, [n], or vectors, [n, width]."""


_Job: TypeAlias = tuple[Pairs, "Future[NDArray[Any]]"]


class DevicePool:
    """Spreads pairs over workers, a thread for each, that take work from one queue.

    Whoever is free takes the next part, so fast devices do more, and calls of several threads
    mix. Parts hold a number of tokens: as many as a device takes at once, or less, so that each
    device gets some. Pairs of one query stay together as far as that allows.

    Args:
        workers: one per device.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(
                target=self._work, args=(worker.score,), name=f"rerank-device-{i}", daemon=True
            )
            for i, worker in enumerate(workers)
        ]
        for thread in self._threads:
            thread.start()

    def score(self, pairs: Pairs) -> NDArray[Any]:
        """Return the logits of the pairs, [n], or vectors, [n, width], in their order.

        Raises:
            Exception: what a worker raised; parts that have not begun are cancelled.
        """
        parts = self._parts(pairs)
        futures: list[Future[NDArray[Any]]] = [Future() for _ in parts]
        for part, future in zip(parts, futures, strict=True):
            self._jobs.put((pairs.take(part), future))
        done, pending = wait(futures, return_when=FIRST_EXCEPTION)
        for future in pending:
            future.cancel()
        wait(pending)
        for future in done:
            future.result()
        order = [index for part in parts for index in part]
        results = [future.result() for future in futures]
        rows = np.concatenate(results) if results else np.zeros(0)
        return pairs.in_order(order, rows, of_tokens=self._workers[0].gives_tokens)

    def close(self) -> None:
        """End the threads once the queue is empty."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _parts(self, pairs: Pairs) -> list[list[int]]:
        share = -(-int(pairs.offsets[-1]) // len(self._workers))
        budget = min(max(share, _LEAST), *(worker.batch_tokens for worker in self._workers))
        groups = None if pairs.groups is None else pairs.groups.tolist()
        shared = None if pairs.shared is None else pairs.shared.tolist()
        return plan_batches(
            pairs.lengths.tolist(), budget, padded=False, groups=groups, shared=shared
        )

    def _work(self, score: Callable[[Pairs], NDArray[Any]]) -> None:
        while (job := self._jobs.get()) is not None:
            pairs, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(score(pairs))
            except BaseException as exc:  # noqa: BLE001 - it reaches the caller by its future
                future.set_exception(exc)
            del job, pairs, future
