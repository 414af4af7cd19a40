"""A process that has a model, and the pickles that go to it and come from it."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic, sleep
from typing import Any, BinaryIO

from rerank_plugins.backend import Backend
from rerank_plugins.errors import BackendError, BackendUnavailable
from rerank_plugins.hooks import CallFinished, CallStarted, Event
from rerank_plugins.hooks._dispatch import emit, observe_call

__all__ = ["Answer", "Child", "ModelRestarting", "Prepare"]

_FAREWELL = 2.0
"""Seconds that a process has to end by itself."""

_TICK = 1.0
"""Seconds between two looks at whether the other process lives."""

_CODE = """\
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from rerank_plugins.wrappers.worker import _work
_work()
"""
"""What the process runs. `multiprocessing` would run the main module of this process once more."""

Prepare = Callable[[Backend], None]


class ModelRestarting(BackendUnavailable):
    """The model's process died, or was ended because it hung; the next one is being started."""


@dataclass(frozen=True)
class Answer:
    """What a process has sent: a value or an error, and what hooks would have heard there."""

    error: Exception | None
    value: Any
    events: Sequence[Event]

    def get(self) -> Any:
        """Return the value, or raise the error; tell the events to those who listen here."""
        for event in self.events:
            emit(event)
        if self.error is not None:
            raise self.error
        return self.value


class Child:
    """One process; pickles go in by its standard input and out by its standard output."""

    def __init__(self, backend: Backend, prepare: Prepare | None) -> None:
        self.began = monotonic()
        self.process = subprocess.Popen(  # noqa: S603  # our own code
            [sys.executable, "-c", _CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        weakref.finalize(self, self.process.kill)  # also when Python ends
        self.send(sys.path)
        self.send((backend, prepare))

    def send(self, message: object) -> None:
        """Send a message.

        Raises:
            ModelRestarting: the process is dead.
        """
        stream: Any = self.process.stdin
        try:
            pickle.dump(message, stream, pickle.HIGHEST_PROTOCOL)
            stream.flush()
        except (OSError, ValueError):  # a closed pipe, ours or theirs
            raise _died() from None

    def answer(self) -> Answer:
        """Return what the process sends next.

        Raises:
            ModelRestarting: it died.
        """
        stream: Any = self.process.stdout
        try:
            return Answer(*pickle.load(stream))  # noqa: S301  # of our own code
        except (OSError, ValueError, EOFError, pickle.UnpicklingError):
            raise _died() from None

    def end(self) -> None:
        """End the process: ask it first, by closing its input."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_FAREWELL)
        self.process.kill()
        self.process.wait()


def _died() -> ModelRestarting:
    return ModelRestarting("the model's process died", retry_after=1.0)


def _work() -> None:
    """Load a backend and answer requests until the input ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the other process decides when this one ends
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()
    source, out = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print must not be read
    with contextlib.suppress(EOFError, BrokenPipeError):
        backend, prepare = pickle.load(source)  # noqa: S301  # of our own code

        def load() -> dict[str, object]:
            if prepare is not None:
                prepare(backend)
            found: dict[str, object] = backend.describe()
            gc.collect()
            gc.freeze()  # or collections would look through all libraries between two batches
            return found

        if not _told(out, load):
            return
        while True:
            requests = pickle.load(source)  # noqa: S301  # of our own code
            _told(out, partial(backend.score_many, requests))


def _die_with(parent: int) -> None:
    """End this process, even one that hangs in a model, once the other one was killed."""
    while os.getppid() == parent:
        sleep(_TICK)
    os._exit(1)


def _told(out: BinaryIO, function: Callable[[], object]) -> bool:
    """Send the result of a function or its error, and the events; say whether it was a result."""
    heard: list[Event] = []
    value, failure = None, None
    try:
        with observe_call((heard.append,), CallStarted("model", "", None, 0, 0)):
            value = function()
    except BaseException as error:  # noqa: BLE001  # raised again in the other process
        failure = _sendable(error)
    events = [event for event in heard if not isinstance(event, CallStarted | CallFinished)]
    pickle.dump((failure, value, events), out, pickle.HIGHEST_PROTOCOL)
    out.flush()
    return failure is None


def _sendable(error: BaseException) -> Exception:
    """Return an error that survives the way to the other process, and ends nothing there."""
    if isinstance(error, Exception):  # else a panic of a library written in Rust, or `SystemExit`
        with contextlib.suppress(Exception):  # whatever keeps it from being sent
            pickle.loads(pickle.dumps(error))  # noqa: S301  # of our own making
            return error
    kind = MemoryError if isinstance(error, MemoryError) else BackendError
    return kind(f"the model failed with {type(error).__name__}")
