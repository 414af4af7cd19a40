"""The life of the server's backend: loading, warm-up, watchdog, drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from pathlib import Path
from time import monotonic
from typing import Any

from rerank_plugins._internal.parallel import in_daemon_thread
from rerank_plugins._internal.text_files import read_objects
from rerank_plugins.backend import Backend
from rerank_plugins.backends.local.lockfile import LockedFiles
from rerank_plugins.errors import BackendTimeout, ConfigError, DataError, RerankError
from rerank_plugins.hooks import BatchFinished, Event
from rerank_plugins.scores import Scores
from rerank_plugins.server.errors import APIError
from rerank_plugins.server.folders import without_folders, without_folders_in
from rerank_plugins.server.isolation import check_locked_models, is_remote, model_processes
from rerank_plugins.server.metrics import ServerMetrics
from rerank_plugins.server.scoring import Scoring, select_scoring
from rerank_plugins.server.settings import ANY_MODEL, ServerSettings

__all__ = ["Lifecycle"]

_log = logging.getLogger(__name__)

_TICK = 0.25
"""Seconds between two checks of the loop's lag and of the batch in progress."""
_MAX_OUT_OF_MEMORY = 3
_MEMORY_RETRY_SECONDS = 10.0
"""Seconds between two tries of a server without memory, which gets no requests of clients."""
_LOAD_END_SECONDS = 2.0
"""How long an ending server waits for a model that is loading in one of its threads."""
_ASSUMED_LENGTH = 512
_WARM_UP_WORDS = (1, 30, 120, 400)
"""Lengths of the documents of the warm-up."""


class Lifecycle:
    """Owns the backend while the server runs.

    Args:
        backend: the server's backend.
        settings: the server's settings.
        metrics: the server's metrics.
    """

    def __init__(self, backend: Backend, settings: ServerSettings, metrics: ServerMetrics) -> None:
        self.backend = backend
        self._default_name = _default_name(backend)
        self._is_remote = is_remote(backend)
        self._processes = model_processes(backend)
        self.draining = False
        """Whether the server is about to end."""
        self.refusing = False
        """Whether the server takes no new requests any more."""
        self.failure: Exception | None = None
        """Why the server can't go on."""
        self.facts: dict[str, object] = {}
        """`Backend.describe()` of the loaded model, without folders; empty before."""
        self.on_failure: Callable[[], None] = lambda: None
        """Called when `failure` is set."""
        self.on_loaded: Callable[[], None] = lambda: None
        """Called in a thread before the server takes the first request."""
        self._settings = settings
        self._longest_batch = settings.longest_batch(reloads=backend.reloads)
        self._metrics = metrics
        self._scoring: Scoring | None = None
        self._locked: Sequence[LockedFiles] = ()
        self._warm_up_requests: Sequence[tuple[str, list[str]]] = ()
        self._out_of_memory = 0
        self._loading: Future[None] | None = None
        self._stopped = False
        self._tasks: list[asyncio.Task[None]] = []
        metrics.queue_pairs.set_function(lambda: self._scoring.queued_pairs if self._scoring else 0)
        metrics.queue_tokens.set_function(lambda: self._scoring.queued_cost if self._scoring else 0)
        metrics.batch_limit.set_function(lambda: self._scoring.batch_cost if self._scoring else 0)
        metrics.ready.set_function(lambda: float(self.why_not_ready() is None))

    @property
    def is_alive(self) -> bool:
        """Whether there is progress: no batch has been running, no model loading for too long."""
        # A model's own process ends when it hangs, and a new one makes progress.
        max_seconds = self._longest_batch * (2 if self._processes else 1)
        if self._scoring is not None and self._scoring.stalled_for() > max_seconds:
            return False
        longest = max((process.restarting_for() for process in self._processes), default=0.0)
        return longest <= 2 * self._settings.load_seconds

    def why_not_ready(self) -> str | None:
        """Return why the server is not ready for requests; None if it is."""
        if self.draining:
            return "shutting_down"
        if self.failure is not None:
            return "failed"
        if self._scoring is None:
            return "loading"
        if not self.is_alive:
            return "stalled"
        if self._out_of_memory:
            return "out_of_memory"
        restarting = any(process.is_restarting for process in self._processes)
        return "model_restarting" if restarting else None

    @property
    def max_length(self) -> int | None:
        """The number of tokens at which the model cuts a pair; None if unknown."""
        length = self.facts.get("max_length")
        return length if isinstance(length, int) else None

    @property
    def assumed_length(self) -> int:
        """`max_length`, or a usual one if it is unknown."""
        return self.max_length or _ASSUMED_LENGTH

    @property
    def document_tokens(self) -> int:
        """The most tokens that a document costs, of which there may be many windows."""
        return self.backend.document_tokens or self.assumed_length

    def model_names(self) -> tuple[str, ...]:
        """Return the names that `model` may have in a request, the default first."""
        names = tuple(name for name in self._settings.model_names if name != ANY_MODEL)
        return names or (self._default_name,)

    def check_model(self, name: str) -> None:
        """Check the name of a model in a request.

        Raises:
            APIError: it is another model's.
        """
        if name not in self.model_names() and ANY_MODEL not in self._settings.model_names:
            raise APIError(
                404,
                "model_not_found",
                "there is no such model; choose one of /v1/models, leave `model` out, or let the "
                "server take any name with `--model-name '*'`",
            )

    def scoring(self) -> Scoring:
        """Return the way to score requests.

        Raises:
            APIError: the server takes no requests now.
        """
        if self.refusing:
            raise APIError(503, "shutting_down", "the server is ending", retry_after=1, close=True)
        if self._scoring is None:
            raise APIError(503, "loading", "the model is loading", retry_after=5)
        return self._scoring

    def count_usage(self, scores: Scores) -> None:
        """Count the tokens of a request, if the backend did."""
        if scores.usage is not None:
            self._metrics.tokens.inc(scores.usage.tokens or 0)

    def fail(self, error: Exception) -> None:
        """Record why the server can't go on, and call `on_failure`."""
        self.failure = error
        self.on_failure()

    @property
    def is_loading(self) -> bool:
        """Whether a thread loads the model."""
        return self._loading is not None and not self._loading.done()

    def start(self) -> None:
        """Start to load the model, and to watch it; the first call does."""
        if self._loading is not None:
            return
        self._stopped = False
        self._loading = in_daemon_thread(self._become_ready, name="rerank-load")
        self._spawn(self._watch_load(self._loading))
        self._spawn(self._watch_lag())
        self._spawn(self._watch_files())
        self._spawn(self._watch_memory())

    async def stop(self) -> None:
        """End all tasks, and close the backend unless a batch hangs in it.

        A thread that loads the model can't be ended. It has a moment to finish; one that hangs
        stays behind, and closes the backend if it ever ends.
        """
        self._stopped = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        if self._loading is not None and self.is_loading:
            self.kill()
            await _wait_for(self._loading, _LOAD_END_SECONDS)
            if self.is_loading:
                return
        self._loading = None
        if self._scoring is not None and self._scoring.stalled_for() < 1:
            await asyncio.to_thread(self._scoring.close)
        if self._scoring is None or self._scoring.stalled_for() == 0:
            with contextlib.suppress(RerankError):
                await self.backend.aclose()

    def kill(self) -> None:
        """Kill the models' own processes; never waits."""
        for process in self._processes:
            process.kill()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(coroutine))

    async def _watch_load(self, loading: Future[None]) -> None:
        """Report a model that can't be loaded, or not in time; else fill the cache."""
        # Processes that hang are killed before; this ends a load in a thread, which can't be.
        seconds = self._settings.load_seconds * (1 + len(self._processes))
        if not await _wait_for(loading, seconds):
            self.fail(
                BackendTimeout(
                    f"the model had not loaded in {seconds:g} s; raise `load_seconds` if it needs "
                    "longer"
                )
            )
        elif error := loading.exception():
            self.fail(error)  # type: ignore[arg-type]  # `in_daemon_thread` lets no other through
        elif self._warm_up_requests:
            await self._fill_cache(self._warm_up_requests)

    def _become_ready(self) -> None:
        """Load the model and warm it up, in a thread; then take requests."""
        started = monotonic()
        try:
            self._load()
        finally:
            if self._stopped:
                self.backend.close()
        seconds = monotonic() - started
        self._metrics.load_seconds.set(seconds)
        _log.info("ready after %.1f s: %s", seconds, self.facts["name"])

    def _load(self) -> None:
        settings = self._settings
        if settings.cache_warm_up is not None:
            self._warm_up_requests = _read_requests(Path(settings.cache_warm_up))
        locked = check_locked_models(self.backend, settings)
        facts: dict[str, object] = {"name": self.backend.name, "scale": self.backend.scale}
        if not self._is_remote:
            facts = self.backend.describe()
            if settings.warm_up:
                for words in _WARM_UP_WORDS:
                    self.backend.score("what is a panda?", [" ".join(["panda"] * words)] * 8)
        for files in locked:  # the engines opened them after they were checked
            files.check()
        self._locked = locked
        self.on_loaded()
        self.facts = facts = without_folders_in(facts)
        self._metrics.info.labels(
            str(facts.get("model", without_folders(self.backend.label))),
            str(facts.get("revision") or ""),
            str(facts.get("engine", "remote" if self._is_remote else "other")),
            str(facts.get("dtype") or ""),
        ).set(1)
        self._scoring = select_scoring(
            self.backend,
            settings,
            (self._metrics.hook, self._watch_batches),
            remote=self._is_remote,
            document_tokens=self.document_tokens,
            length=self.assumed_length,
        )

    def _watch_batches(self, event: Event) -> None:
        """Fail after three single pairs in a row that do not fit into memory."""
        match event:
            case BatchFinished(outcome="ok"):
                self._out_of_memory = 0
            case BatchFinished(1, outcome="out_of_memory"):
                self._out_of_memory += 1
                if self._out_of_memory >= _MAX_OUT_OF_MEMORY:
                    self.fail(MemoryError("single pairs do not fit into memory"))

    async def _watch_memory(self) -> None:
        """Find out when there is memory again: a server that is not ready gets no requests."""
        while True:
            await asyncio.sleep(_MEMORY_RETRY_SECONDS)
            if self._out_of_memory and self._scoring is not None:
                with contextlib.suppress(RerankError, MemoryError):
                    await self._scoring.score("what is a panda?", ["panda"])

    async def _watch_files(self) -> None:
        """Fail if a file of a locked model is changed; engines map some into memory."""
        while True:
            await asyncio.sleep(_TICK)
            try:
                for files in self._locked:
                    files.check()
            except ConfigError as error:
                self.fail(error)
                return

    async def _watch_lag(self) -> None:
        """Measure how late the event loop wakes up, and log a batch that hangs."""
        was_alive = True
        while True:
            due = monotonic() + _TICK
            await asyncio.sleep(_TICK)
            self._metrics.lag.observe(max(0.0, monotonic() - due))
            is_alive = self.is_alive
            if was_alive and not is_alive:
                _log.error("a batch has been running for %g s", self._longest_batch)
            was_alive = is_alive

    async def _fill_cache(self, requests: Sequence[tuple[str, list[str]]]) -> None:
        """Score requests one after the other, beside those of clients."""
        count = 0
        for query, documents in requests:
            try:
                await self.scoring().score(query, documents)
                count += 1
            except (RerankError, APIError) as error:
                _log.warning("cache warm-up: %s", type(error).__name__)
        _log.info("cache warm-up: scored %d requests", count)


async def _wait_for(future: Future[None], seconds: float) -> bool:
    """Wait for the work of a thread; return whether it is done."""
    waiting = asyncio.wrap_future(future)
    try:
        await asyncio.wait((waiting,), timeout=seconds)
    finally:
        waiting.cancel()  # else it is told when its loop is gone
    return future.done()


def _default_name(backend: Backend) -> str:
    """Return the model of the first backend that scores, or its kind if it has no choice."""
    first = next(part for part in backend.walk() if not part.children)
    return without_folders(first.model or first.kind)


def _read_requests(file: Path) -> list[tuple[str, list[str]]]:
    """Return the requests of a JSON Lines file.

    Raises:
        DataError: the file can't be read, or a line is not a request.
    """
    requests = []
    for where, fields in read_objects(file):
        query, documents = fields.get("query"), fields.get("documents")
        texts = [query, *documents] if isinstance(documents, list) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise DataError(f'{where}: write {{"query": "…", "documents": ["…"]}}')
        requests.append((str(query), [str(document) for document in documents or ()]))
    return requests
