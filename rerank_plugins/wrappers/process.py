"""A model in a process of its own: what kills it ends a batch and not this process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from rerank_plugins._internal.checks import check_number
from rerank_plugins.backend import Backend, Document, check_texts
from rerank_plugins.wrappers.worker import Child, ModelRestarting, Prepare

__all__ = ["ModelProcess", "ModelRestarting"]

_log = logging.getLogger(__name__)

_TICK = 0.1
_SHORT_LIFE = 10.0
_LONGEST_PAUSE = 30.0


class ModelProcess(Backend):
    """Runs a backend in another process, and starts that again whenever it dies or hangs.

    Calls in progress then fail with `ModelRestarting` at once, as do calls until the next
    process has loaded the model. The first call starts the first process and waits for it.

    Args:
        wrapped: the backend; it is sent to the process and never used in this one.
        batch_seconds: a call that takes longer is taken to hang.
        prepare: is called with the backend in the new process, before anything else.
        on_restart: is called in a thread whenever a process has to be started again; what it
            raises is logged.
    """

    def __init__(
        self,
        wrapped: Backend,
        *,
        batch_seconds: float = 60.0,
        prepare: Prepare | None = None,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self.wrapped = wrapped
        self.scale = wrapped.scale
        self.cacheable = wrapped.cacheable
        self.on_restart = on_restart
        check_number("batch_seconds", batch_seconds, above=0, unit="seconds")
        self._batch_seconds = batch_seconds
        self._prepare = prepare
        self._one_call = threading.Lock()
        self._changed = threading.Condition()
        self._child: Child | None = None
        self._loading: Child | None = None
        """The one that takes the place of another, until it has the model."""
        self._facts: dict[str, Any] | None = None
        self._began: float | None = None
        self._supervisor: threading.Thread | None = None
        self._closing = threading.Event()
        """Of the supervisor of now: a later call, even during `close`, begins with another."""

    @property
    def name(self) -> str:
        return str(self.describe()["name"])

    @property
    def is_restarting(self) -> bool:
        """Whether calls fail for now."""
        return self._supervisor is not None and self._child is None

    @property
    def process_id(self) -> int | None:
        """The id of the process that has the model now."""
        child = self._child
        return None if child is None else child.process.pid

    def score(self, query: str, documents: Sequence[Document]) -> list[float]:
        return self.score_many([(query, documents)])[0]

    def score_many(self, requests: Sequence[tuple[str, Sequence[Document]]]) -> list[list[float]]:
        asked = [(query, check_texts(query, documents)) for query, documents in requests]
        if not any(texts for _, texts in asked):
            return [[] for _ in asked]
        with self._one_call:
            child = self._running()
            self._began = monotonic()
            try:
                child.send(asked)
                answer = child.answer()
            except BaseException:  # what is left in its pipes would answer the next call
                self._forget(child)
                raise
            finally:
                self._began = None
        found: list[list[float]] = answer.get()
        return found

    def describe(self) -> dict[str, object]:
        if self._facts is None:  # else don't wait for the batch in progress
            with self._one_call:
                self._running()
        return {**(self._facts or {}), "process": "own"}

    def to_spec(self) -> dict[str, object]:
        return self.wrapped.to_spec()

    def close(self) -> None:
        with self._changed:
            supervisor, self._supervisor = self._supervisor, None
            self._closing.set()
            if self._loading is not None:
                self._loading.process.kill()
            self._changed.notify_all()
        if supervisor is not None and supervisor is not threading.current_thread():
            supervisor.join()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.wrapped!r}>"

    def _running(self) -> Child:
        """Return the process, started if this is the first call.

        Raises:
            ModelRestarting: there is none for now.
            RerankError: the first one could not load the model.
        """
        if self._supervisor is None:
            child = Child(self.wrapped, self._prepare)
            self._load(child)
            self._watch(child)
        child_now = self._child
        if child_now is None:
            raise ModelRestarting("the model is being loaded again", retry_after=2.0)
        return child_now

    def _load(self, child: Child) -> None:
        """Wait until a process has the model; end it if that fails."""
        try:
            self._facts = child.answer().get()
        except BaseException:
            child.end()
            raise

    def _watch(self, child: Child) -> None:
        """Use a process, and have it supervised."""
        closing = threading.Event()
        supervisor = threading.Thread(
            target=self._supervise, args=(child, closing), name="rerank-supervisor", daemon=True
        )
        with self._changed:
            try:
                supervisor.start()
            except BaseException:  # no memory for one more thread
                child.end()
                raise
            self._child, self._supervisor, self._closing = child, supervisor, closing

    def _supervise(self, child: Child, closing: threading.Event) -> None:
        """Start a process whenever the last one has ended; end the last one on `close`."""
        short_lives = 0
        while True:
            self._outlive(child, closing)
            self._forget(child)
            while not self._one_call.acquire(timeout=_TICK):  # a call in progress has the pipes
                self._kill_if_it_hangs(child)
            try:
                child.end()
            finally:
                self._one_call.release()
            if closing.is_set():
                return
            _log.error("the model's process ended with code %s", child.process.returncode)
            self._tell_restart()
            short_lives = short_lives + 1 if monotonic() - child.began < _SHORT_LIFE else 0
            while (next_child := self._next(short_lives, closing)) is None:
                short_lives += 1
                if closing.is_set():
                    return
            child = next_child
            with self._changed:
                if not closing.is_set():
                    self._child = child
            _log.info("the model is back after %.1f s", monotonic() - child.began)

    def _forget(self, child: Child) -> None:
        with self._changed:
            if self._child is child:
                self._child = None

    def _outlive(self, child: Child, closing: threading.Event) -> None:
        """Return when a process has ended, hangs, or is no longer wanted."""
        while not closing.is_set() and child.process.poll() is None:
            self._kill_if_it_hangs(child)
            with self._changed:
                self._changed.wait_for(lambda: closing.is_set() or self._child is not child, _TICK)
            if self._child is not child:  # a call found it dead; it is, or is about to be
                child.process.kill()

    def _kill_if_it_hangs(self, child: Child) -> None:
        began = self._began
        too_long = began is not None and monotonic() - began > self._batch_seconds
        if too_long and child.process.poll() is None:
            _log.error("a batch has been running for %g s: it hangs", self._batch_seconds)
            child.process.kill()

    def _tell_restart(self) -> None:
        try:
            self.on_restart()
        except Exception as error:  # noqa: BLE001  # else the supervisor ends, and no process comes
            _log.error("`on_restart` failed with %s", type(error).__name__)

    def _next(self, short_lives: int, closing: threading.Event) -> Child | None:
        """Return a new process, after a pause if the last ones died young; None if it fails."""
        pause = min(_LONGEST_PAUSE, 2.0**short_lives) if short_lives > 1 else 0.0
        with self._changed:
            self._changed.wait_for(closing.is_set, pause)
        if closing.is_set():
            return None
        try:
            child = Child(self.wrapped, self._prepare)
            with self._changed:
                self._loading = child
                if closing.is_set():  # `close` came before it could be seen
                    child.process.kill()
            self._load(child)
        except Exception as error:  # noqa: BLE001  # it may be better next time
            _log.error("the model can't be loaded again: %s", type(error).__name__)
            return None
        finally:
            self._loading = None
        return child
