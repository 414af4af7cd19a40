"""From the first moment to the last: loading, warm-up, watchdog, drain."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from rerank_plugins.backend import Backend
from rerank_plugins.errors import ConfigError, RerankError
from rerank_plugins.hooks import BatchFinished, Event
from rerank_plugins.server.errors import APIError
from rerank_plugins.server.isolation import is_remote, model_processes, check_locked_models
from rerank_plugins.server.metrics import ServerMetrics
from rerank_plugins.server.scoring import Scoring, select_scoring
from rerank_plugins.server.settings import ServerSettings

__all__ = ["Lifecycle"]

_log = logging.getLogger(__name__)

_TICK = 0.25  # seconds between looks at the loop's lag and at the batch in progress
_MAX_OUT_OF_MEMORY = 3
_TRY_AGAIN = 10.0
"""Seconds after which a server without memory scores something, which no client may ask it to."""
_USUAL_LENGTH = 512
_WORDS = (1, 30, 120, 400)
"""Lengths of the documents that warm a model up."""


class Lifecycle:
    """Owns the backend while the server runs.

    Args:
        backend: what scores.
        settings: of the server.
        metrics: of the server.
    """

    def __init__(self, backend: Backend, settings: ServerSettings, metrics: ServerMetrics) -> None:
        self.backend = backend
        self._usual_name = _usual_name(backend)
        self._is_remote = is_remote(backend)
        self._processes = model_processes(backend)
        self.draining = False
        """Whether the server is about to end."""
        self.refusing = False
        """Whether no new request is taken any more."""
        self.failure: Exception | None = None
        """Why the server can't go on."""
        self.facts: dict[str, object] = {}
        """What `Backend.describe()` said once the model was loaded."""
        self.on_failure: Callable[[], None] = lambda: None
        """Is called when `failure` is set."""
        self.on_loaded: Callable[[], None] = lambda: None
        """Is called, in a thread, before the first request is taken."""
        self._settings = settings
        self._metrics = metrics
        self._scoring: Scoring | None = None
        self._out_of_memory = 0
        self._loading: asyncio.Future[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        metrics.queue_pairs.set_function(lambda: self._scoring.queued_pairs if self._scoring else 0)
        metrics.queue_tokens.set_function(lambda: self._scoring.queued_cost if self._scoring else 0)
        metrics.batch_limit.set_function(lambda: self._scoring.batch_cost if self._scoring else 0)
        metrics.ready.set_function(lambda: float(self.why_not_ready() is None))
        for process in self._processes:
            process.on_restart = metrics.restarts.inc

    @property
    def is_alive(self) -> bool:
        """Whether there is progress: no batch has been running for too long."""
        # A model's own process is ended when it hangs, so that there is progress again.
        longest = self._settings.watchdog_seconds * (2 if self._processes else 1)
        return self._scoring is None or self._scoring.stalled_for() <= longest

    def why_not_ready(self) -> str | None:
        """Return why new requests had better go elsewhere; None if they are welcome."""
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
        """The tokens at which the model cuts a pair, if that is known."""
        length = self.facts.get("max_length")
        return length if isinstance(length, int) else None

    def model_names(self) -> tuple[str, ...]:
        """Return the names that requests may give as `model`, the usual one first."""
        if self._settings.model_names:
            return self._settings.model_names
        return (self._usual_name or str(self.facts.get("name", type(self.backend).__name__)),)

    def check_model(self, name: str) -> None:
        """Check that a request means this model.

        Raises:
            APIError: it names another one.
        """
        if name not in self.model_names():
            raise APIError(
                404, "model_not_found", "no such model here; see /v1/models, or leave `model` out"
            )

    def scoring(self) -> Scoring:
        """Return what scores.

        Raises:
            APIError: no request can be taken now.
        """
        if self.refusing:
            raise APIError(503, "shutting_down", "the server is ending", retry_after=1, close=True)
        if self._scoring is None:
            raise APIError(503, "loading", "the model is being loaded", retry_after=5)
        return self._scoring

    def fail(self, error: Exception) -> None:
        """Say why the server can't go on."""
        self.failure = error
        self.on_failure()

    def start(self) -> None:
        """Begin to load, and to watch."""
        self._spawn(self._load())
        self._spawn(self._watch_lag())
        self._spawn(self._watch_memory())

    async def stop(self) -> None:
        """End all tasks; free the backend, unless a batch hangs in it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._loading is not None:  # its thread can't be cancelled, and would load once more
            await asyncio.wait((self._loading,))
        if self._scoring is not None and self._scoring.stalled_for() < 1:
            await asyncio.to_thread(self._scoring.close)
        if self._scoring is None or self._scoring.stalled_for() == 0:
            with contextlib.suppress(RerankError):
                await self.backend.aclose()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _load(self) -> None:
        began = monotonic()
        file = self._settings.cache_warm_up
        try:
            known = [] if file is None else await asyncio.to_thread(_requests_in, Path(file))
            self._loading = asyncio.ensure_future(asyncio.to_thread(self._become_ready))
            await asyncio.shield(self._loading)
        except Exception as error:  # noqa: BLE001  # told by whoever runs the server
            self.fail(error)
            return
        seconds = monotonic() - began
        self._metrics.load_seconds.set(seconds)
        _log.info("ready after %.1f s: %s", seconds, self.facts["name"])
        if known:
            await self._fill_cache(known)

    def _become_ready(self) -> None:
        """Load the model and score with it once, in a thread; then take requests."""
        settings = self._settings
        check_locked_models(self.backend, settings)
        facts: dict[str, object] = {"name": self.backend.name, "scale": self.backend.scale}
        if not self._is_remote:
            facts = self.backend.describe()
            if settings.warm_up:
                for words in _WORDS:
                    self.backend.score("what is a panda?", [" ".join(["panda"] * words)] * 8)
        self.on_loaded()
        self.facts = facts
        self._metrics.info.labels(
            str(facts.get("model", facts["name"])),
            str(facts.get("revision") or ""),
            str(facts.get("engine", "remote" if self._is_remote else "other")),
            str(facts.get("dtype") or ""),
        ).set(1)
        self._scoring = select_scoring(
            self.backend,
            settings,
            (self._metrics.hook, self._watch_batches),
            remote=self._is_remote,
            max_length=self.max_length or _USUAL_LENGTH,
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
        """Find out whether there is memory again: a server that is not ready gets no requests."""
        while True:
            await asyncio.sleep(_TRY_AGAIN)
            if self._out_of_memory and self._scoring is not None:
                with contextlib.suppress(RerankError, MemoryError):
                    await self._scoring.score("what is a panda?", ["panda"])

    async def _watch_lag(self) -> None:
        """Measure how late the event loop is; say so when a batch hangs."""
        told = False
        while True:
            due = monotonic() + _TICK
            await asyncio.sleep(_TICK)
            self._metrics.lag.observe(max(0.0, monotonic() - due))
            if not self.is_alive and not told:
                _log.error("a batch has been running for %g s", self._settings.watchdog_seconds)
            told = not self.is_alive

    async def _fill_cache(self, requests: Sequence[tuple[str, list[str]]]) -> None:
        """Score requests, one after the other, beside those of clients."""
        scored = 0
        for query, documents in requests:
            try:
                await self.scoring().score(query, documents)
                scored += 1
            except (RerankError, APIError) as error:
                _log.warning("cache warm-up: %s", type(error).__name__)
        _log.info("cache warm-up: scored %d requests", scored)


def _usual_name(backend: Backend) -> str | None:
    """Return what a configuration calls the model: its id, its folder's name, or its kind."""
    try:
        spec = backend.to_spec()
    except ConfigError:
        return None
    table = spec if "kind" in spec else spec["backend"]
    model = str(table.get("model") or table["kind"]) if isinstance(table, Mapping) else ""
    return Path(model).name if Path(model).is_absolute() else model


def _requests_in(file: Path) -> list[tuple[str, list[str]]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as exc:
        raise ConfigError(f"can't read {str(file)!r}: {exc}") from exc
    requests = []
    for number, line in enumerate(lines, start=1):
        try:
            found = json.loads(line) if line.strip() else None
            if found is not None:
                requests.append((str(found["query"]), [str(text) for text in found["documents"]]))
        except (ValueError, KeyError, TypeError) as exc:
            raise ConfigError(
                f'{str(file)!r}, line {number}: write {{"query": "…", "documents": ["…"]}}'
            ) from exc
    return requests
