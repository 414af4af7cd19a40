"""A model in a process of its own: what kills it ends a batch and not this process."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, Self

from rerank_plugins._internal.checks import check_number
from rerank_plugins._internal.locks import (
    ForkSafeCondition,
    ForkSafeLock,
    reset_in_forked_child,
)
from rerank_plugins.backend import Backend
from rerank_plugins.content import Requests
from rerank_plugins.errors import RerankError
from rerank_plugins.scores import Scale, Scores
from rerank_plugins.wrappers.base import Blocking, Flow, WrapperBackend
from rerank_plugins.wrappers.worker import (
    ModelCrashed,
    ModelRestarting,
    Prepare,
    WorkerProcess,
    WorkerResult,
)

__all__ = ["ModelCrashed", "ModelProcess", "ModelRestarting"]

_log = logging.getLogger(__name__)

_TICK = 0.1
"""Seconds between two checks of a worker."""
_SHORT_LIFE = 10.0
"""Seconds; after two workers that lived shorter and scored nothing, the next one waits."""
_MAX_PAUSE = 30.0


class ModelProcess(WrapperBackend):
    """Runs a backend in another process, and starts a new one whenever that dies or hangs.

    The call in progress then fails with `ModelCrashed` at once. Others wait for the next process
    for `wait_seconds`, and fail with `ModelRestarting` from then on until it has loaded the model.
    The first call starts the first process and waits for it. A forked child starts a process of its
    own.

    Args:
        wrapped: the backend; it is sent to the process and never used in this one.
        batch_seconds: a call that takes longer hangs, and its process is killed.
        load_seconds: a process that takes longer to load the model hangs, and is killed: the first
            call raises `BackendTimeout`, and later ones have another process started.
        wait_seconds: how long calls wait for the next process, from the end of the last one on.
        prepare: called with the backend in the new process, before anything else. What it returns
            is called after the load and after each batch, and raises if the model can't be
            trusted any more; the process is then replaced.
        on_restart: called in a thread whenever another process has to start; what it raises is
            logged.

    Raises:
        ConfigError: `batch_seconds` or `load_seconds` is not a positive number, or `wait_seconds`
            is negative.
    """

    def __init__(
        self,
        wrapped: Backend,
        *,
        batch_seconds: float = 60.0,
        load_seconds: float = 600.0,
        wait_seconds: float = 0.0,
        prepare: Prepare | None = None,
        on_restart: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(wrapped)
        check_number("batch_seconds", batch_seconds, above=0, unit="seconds")
        check_number("load_seconds", load_seconds, above=0, unit="seconds")
        check_number("wait_seconds", wait_seconds, least=0, unit="seconds")
        self._batch_seconds = batch_seconds
        self._load_seconds = load_seconds
        self._wait_seconds = wait_seconds
        self._prepare = prepare
        self._on_restart = on_restart
        self._facts: dict[str, Any] | None = None
        """What `describe()` of the backend returned once the model was loaded."""
        self._reset()
        reset_in_forked_child(self)

    def _reset(self) -> None:
        self._one_call = ForkSafeLock()
        self._changed = ForkSafeCondition()
        self._worker: WorkerProcess | None = None
        self._next_worker: WorkerProcess | None = None
        """The one that loads the model."""
        self._dropped_at = 0.0
        """When the last worker was used no more."""
        self._call_started: float | None = None
        self._supervisor: threading.Thread | None = None
        self._closing = threading.Event()
        """Of the current supervisor: a later call, even during `close`, starts another one."""

    def reset_after_fork(self) -> None:
        """Leave the workers to the parent process; the next call starts one of this process."""
        for worker in (self._worker, self._next_worker):
            if worker is not None:
                worker.disown()
        self._reset()

    @property
    def name(self) -> str:
        return str(self.describe()["name"])

    @property
    def scale(self) -> Scale:  # type: ignore[override]  # as in the base
        """As the process says, once it has loaded the model."""
        scale: Scale = (self._facts or {}).get("scale", self.wrapped.scale)
        return scale

    @property
    def process(self) -> Self:
        return self

    @property
    def is_restarting(self) -> bool:
        """Whether calls fail for now."""
        return self._supervisor is not None and self._worker is None

    def restarting_for(self) -> float:
        """Return for how many seconds calls have been failing; 0 if they don't."""
        return monotonic() - self._dropped_at if self.is_restarting else 0.0

    @property
    def process_id(self) -> int | None:
        """The id of the process that has the model now."""
        worker = self._worker
        return None if worker is None else worker.process.pid

    @property
    def kind(self) -> str:
        return "process"

    def flow(self, requests: Requests) -> Flow:
        if not any(documents for _, documents in requests):
            return [Scores((), scale=self.scale) for _ in requests]
        dropped = threading.Event()
        try:
            scores: list[Scores] = yield Blocking(lambda: self._score(requests, dropped))
        except BaseException:  # whoever waited is gone, but a thread that has begun goes on
            dropped.set()
            raise
        return scores

    def _score(self, requests: Requests, dropped: threading.Event) -> list[Scores]:
        """Score requests, one call after the other; none that is dropped before its turn."""
        self._wait_for_next()
        with self._one_call:
            if dropped.is_set():
                return []
            worker = self._current_worker()
            self._call_started = monotonic()
            try:
                worker.send(requests)
                result = _received(worker)
            except BaseException:  # what is left in its pipes would be the result of the next call
                self._drop(worker)
                raise
            finally:
                self._call_started = None
            if isinstance(result.error, ModelRestarting):  # it must not score any more
                self._drop(worker)
        scores: list[Scores] = result.unwrap()
        return scores

    def describe(self) -> dict[str, object]:
        if self._facts is None:  # else don't wait for the batch in progress
            with self._one_call:
                self._current_worker()
        return {**(self._facts or {}), "process": "own"}

    def close(self) -> None:
        with self._changed:
            supervisor, self._supervisor = self._supervisor, None
            self._closing.set()
            if self._next_worker is not None:
                self._next_worker.process.kill()
            self._changed.notify_all()
        if supervisor is not None and supervisor is not threading.current_thread():
            supervisor.join()

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)

    def kill(self) -> None:
        """Kill the process, also one that still loads the model; who waits for it gets an error.

        Never waits, unlike `close`.
        """
        for worker in (self._worker, self._next_worker):
            if worker is not None:
                worker.process.kill()

    def _wait_for_next(self) -> None:
        """Wait for the next worker, before the call takes a lock that its start needs."""
        with self._changed:
            seconds = self._dropped_at + self._wait_seconds - monotonic()
            if self.is_restarting and seconds > 0:
                self._changed.wait_for(lambda: not self.is_restarting, seconds)

    def _current_worker(self) -> WorkerProcess:
        """Return the worker; the first call starts it.

        Raises:
            ModelRestarting: there is none for now.
            RerankError: the first worker could not load the model.
        """
        if self._supervisor is None:
            self._start_supervisor(self._loaded_worker())
        worker = self._worker
        if worker is None:
            raise ModelRestarting("the model is being loaded again", retry_after=2.0)
        return worker

    def _loaded_worker(self, closing: threading.Event | None = None) -> WorkerProcess:
        """Start a worker, and wait until it has loaded the model.

        Raises:
            BackendTimeout: it took too long.
            ModelRestarting: it died; `close` kills it, too.
            RerankError: it could not load the model.
        """
        worker = WorkerProcess()
        try:
            self._next_worker = worker
            if closing is not None and closing.is_set():  # `close` came before it could be seen
                worker.process.kill()
            self._facts = worker.load(self.wrapped, self._prepare, self._load_seconds)
        finally:
            self._next_worker = None
        return worker

    def _start_supervisor(self, worker: WorkerProcess) -> None:
        """Use a worker, and have it supervised."""
        closing = threading.Event()
        supervisor = threading.Thread(
            target=self._supervise, args=(worker, closing), name="rerank-supervisor", daemon=True
        )
        with self._changed:
            try:
                supervisor.start()
            except BaseException:  # no memory for one more thread
                worker.stop()
                raise
            self._worker, self._supervisor, self._closing = worker, supervisor, closing

    def _supervise(self, worker: WorkerProcess, closing: threading.Event) -> None:
        """Replace each worker that has ended; end the last one on `close`."""
        short_lives = 0
        while True:
            self._wait_for_end(worker, closing)
            self._drop(worker)
            while not self._one_call.acquire(timeout=_TICK):  # a call in progress uses the pipes
                self._kill_if_it_hangs(worker)
            try:
                worker.stop()
            finally:
                self._one_call.release()
            if closing.is_set():
                return
            _log.error("the model's process ended with code %s", worker.process.returncode)
            self._call_on_restart()
            lived = worker.has_scored or monotonic() - worker.started > _SHORT_LIFE
            short_lives = 0 if lived else short_lives + 1
            while (replacement := self._replacement(short_lives, closing)) is None:
                short_lives += 1
                if closing.is_set():
                    return
            worker = replacement
            with self._changed:
                if not closing.is_set():
                    self._worker = worker
                    self._changed.notify_all()
            _log.info("the model is loaded again after %.1f s", monotonic() - worker.started)

    def _drop(self, worker: WorkerProcess) -> None:
        """Use a worker no more."""
        with self._changed:
            if self._worker is worker:
                self._worker = None
                self._dropped_at = monotonic()

    def _wait_for_end(self, worker: WorkerProcess, closing: threading.Event) -> None:
        """Return when a worker has ended, hangs, or is no longer used."""
        while not closing.is_set() and worker.process.poll() is None:
            self._kill_if_it_hangs(worker)
            with self._changed:
                self._changed.wait_for(
                    lambda: closing.is_set() or self._worker is not worker, _TICK
                )
            if self._worker is not worker:  # a call dropped it: it is dead, or about to be
                worker.process.kill()

    def _kill_if_it_hangs(self, worker: WorkerProcess) -> None:
        started = self._call_started
        too_long = started is not None and monotonic() - started > self._batch_seconds
        if too_long and worker.process.poll() is None:
            _log.error("a batch takes more than %g s: it hangs", self._batch_seconds)
            worker.process.kill()

    def _call_on_restart(self) -> None:
        try:
            if self._on_restart is not None:
                self._on_restart()
        except Exception as error:  # noqa: BLE001  # else the supervisor ends, and no worker starts
            _log.error("`on_restart` failed with %s", type(error).__name__)

    def _replacement(self, short_lives: int, closing: threading.Event) -> WorkerProcess | None:
        """Return a new worker, after a pause if the last ones died young; None if it fails."""
        pause = min(_MAX_PAUSE, 2.0**short_lives) if short_lives > 1 else 0.0
        with self._changed:
            self._changed.wait_for(closing.is_set, pause)
        if closing.is_set():
            return None
        try:
            return self._loaded_worker(closing)
        except Exception as error:  # noqa: BLE001  # the next try may succeed
            reason = error if isinstance(error, RerankError) else type(error).__name__
            _log.error("the model can't be loaded again: %s", reason)
            return None


def _received(worker: WorkerProcess) -> WorkerResult:
    """Wait for the result of a call.

    Raises:
        ModelCrashed: the worker died, maybe of this call.
    """
    try:
        result = worker.receive()
    except ModelRestarting as error:
        raise ModelCrashed(str(error), retry_after=error.retry_after) from None
    worker.has_scored = True
    return result
