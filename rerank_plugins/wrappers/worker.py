"""The process that has a model, and the pickles that go to it and come from it."""

from __future__ import annotations

import contextlib
import gc
import logging
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
from typing import Any, BinaryIO, TypeAlias

from rerank_plugins._internal.parallel import as_error
from rerank_plugins.backend import Backend
from rerank_plugins.content import Requests
from rerank_plugins.errors import (
    BackendCrashed,
    BackendError,
    BackendTimeout,
    BackendUnavailable,
    RerankError,
)
from rerank_plugins.hooks import Event
from rerank_plugins.hooks._dispatch import Dispatcher, dispatch_to, emit
from rerank_plugins.scores import Scores
from rerank_plugins.wrappers._pipes import PipeInput, reader
from rerank_plugins.wrappers._requests import score_with

__all__ = ["ModelCrashed", "ModelRestarting", "Prepare", "WorkerProcess", "WorkerResult"]

_log = logging.getLogger(__name__)

_EXIT_SECONDS = 2.0
"""How long a worker may take to end by itself."""

_PARENT_CHECK_SECONDS = 1.0
"""How often a worker checks that its parent lives."""

_MAX_LINE = 4096
"""Bytes in one record of what a worker writes to its standard error."""

_CODE = """\
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from rerank_plugins.wrappers.worker import _run
_run()
"""
"""What a worker runs. `multiprocessing` would run the main module of this process once more."""

Check: TypeAlias = Callable[[], None]
"""Raises a `RerankError` if a loaded model can't be trusted any more."""

Prepare: TypeAlias = Callable[[Backend], Check | None]
"""Called before a backend loads its model."""


class ModelRestarting(BackendUnavailable):
    """The model's process died, or was killed because it hung; another one is starting."""


class ModelCrashed(ModelRestarting, BackendCrashed):
    """It died or hung during this call."""


@dataclass(frozen=True)
class WorkerResult:
    """What a worker sends back: a value or an error, and the events on the way to it."""

    error: Exception | None
    value: Any
    events: Sequence[Event]

    def unwrap(self) -> Any:
        """Emit the events to the hooks of this call; return the value, or raise the error."""
        for event in self.events:
            emit(event)
        if self.error is not None:
            raise self.error
        return self.value


class WorkerProcess:
    """One worker; pickles go in by its standard input and come out by its standard output.

    What it writes to its standard error is logged, so that it never waits for a reader.
    """

    def __init__(self) -> None:
        self.started = monotonic()
        self.process = subprocess.Popen(  # noqa: S603  # our own code
            [sys.executable, "-c", _CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        weakref.finalize(self, self.process.kill)  # also when Python ends
        self._hangs = False
        self.has_scored = False
        """Whether it has lived through a call."""
        pipes: Any = self.process  # they are not None, as the type says
        self._input = PipeInput(pipes.stdin, self._is_alive)
        self._output = reader(pipes.stdout, self._is_alive)
        self._log = threading.Thread(
            target=_log_lines,
            args=(reader(pipes.stderr, self._is_alive),),
            name="rerank-model-log",
            daemon=True,
        )

    def load(self, backend: Backend, prepare: Prepare | None, seconds: float) -> dict[str, object]:
        """Have the worker load a backend, and return what that describes; end it if that fails.

        Raises:
            BackendTimeout: it took longer than `seconds`, so the worker was killed.
            ModelRestarting: the worker died.
            RerankError: the backend raised it.
        """
        timer = threading.Timer(seconds, self._kill_hanging)
        timer.daemon = True
        try:
            self._log.start()
            timer.start()
            self.send(sys.path)
            self.send((backend, prepare))
            facts: dict[str, object] = self.receive().unwrap()
        except BaseException as error:
            self.stop()
            if self._hangs and isinstance(error, ModelRestarting):
                raise BackendTimeout(
                    f"the model's process was killed: it had not loaded the model in {seconds:g} s"
                ) from None
            raise
        finally:
            timer.cancel()
        return facts

    def _is_alive(self) -> bool:
        return self.process.poll() is None

    def _kill_hanging(self) -> None:
        self._hangs = True
        self.process.kill()

    def send(self, message: object) -> None:
        """Send a message.

        Raises:
            ModelRestarting: the worker is dead.
        """
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        try:
            self._input.write(data)
        except (OSError, ValueError):  # a closed pipe, at this end or at the other
            raise _died() from None

    def receive(self) -> WorkerResult:
        """Wait for the next result.

        Raises:
            ModelRestarting: the worker died.
        """
        try:
            return WorkerResult(*pickle.load(self._output))  # noqa: S301  # of our own code
        except (OSError, ValueError, EOFError, pickle.UnpicklingError):
            raise _died() from None

    def stop(self) -> None:
        """End the worker: close its input, and kill it if it does not exit."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_EXIT_SECONDS)
        self.process.kill()
        self.process.wait()
        if self._log.is_alive():
            self._log.join(_EXIT_SECONDS)  # not longer: a child of the worker may go on writing
        elif self.process.stderr is not None:  # there is no memory for one more thread
            self.process.stderr.close()

    def disown(self) -> None:
        """Leave the worker to the parent, in a forked child.

        What the parent has written into a buffer must reach the pipe once, so the child's copy of
        it goes nowhere.
        """
        _disowned.append(self)  # a buffer that another thread has locked can't be freed
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None and not stream.closed:
                os.dup2(null, stream.fileno(), inheritable=False)
        os.close(null)


_disowned: list[WorkerProcess] = []


def _log_lines(stream: BinaryIO) -> None:
    """Log what a worker writes, until it ends."""
    with contextlib.suppress(OSError, ValueError), stream:
        while line := stream.readline(_MAX_LINE):
            if text := line.decode(errors="replace").strip():
                _log.warning("the model's process: %s", text)


def _died() -> ModelRestarting:
    return ModelRestarting("the model's process died", retry_after=1.0)


def _run() -> None:
    """Load a backend and score requests until the input ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent decides when this process ends
    threading.Thread(target=_exit_with, args=(os.getppid(),), daemon=True).start()
    source, out = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # keeps what libraries print out of `out`
    with contextlib.suppress(EOFError, BrokenPipeError):
        backend, prepare = pickle.load(source)  # noqa: S301  # of our own code

        check: Check = _no_check

        def load() -> dict[str, object]:
            nonlocal check
            if prepare is not None:
                check = prepare(backend) or check
            facts: dict[str, object] = backend.describe()
            check()
            gc.collect()
            gc.freeze()  # or collections would look through all libraries between two batches
            return facts

        if not _send_result(out, load):
            return
        while True:
            requests = pickle.load(source)  # noqa: S301  # of our own code
            _send_result(out, partial(_score, backend, requests, check))


def _no_check() -> None:
    """Find nothing wrong."""


def _score(backend: Backend, requests: Requests, check: Check) -> list[Scores]:
    """Score requests; the scores are those of the model that was checked when it loaded."""
    scores = score_with(backend, requests)
    try:
        check()
    except RerankError as exc:
        raise ModelRestarting(str(exc), retry_after=2.0) from exc
    return scores


def _exit_with(parent: int) -> None:
    """End this process, even one that hangs in a model, once its parent is gone."""
    while os.getppid() == parent:
        sleep(_PARENT_CHECK_SECONDS)
    os._exit(1)


def _send_result(out: BinaryIO, function: Callable[[], object]) -> bool:
    """Send what a function returns or raises, and its events; return whether it returned."""
    events: list[Event] = []
    value, failure = None, None
    try:
        with dispatch_to([Dispatcher((events.append,))]):
            value = function()
    except BaseException as error:  # noqa: BLE001  # raised again in the parent
        failure = _picklable(error)
    pickle.dump((failure, value, events), out, pickle.HIGHEST_PROTOCOL)
    out.flush()
    return failure is None


def _picklable(error: BaseException) -> Exception:
    """Return an error that can be sent to the parent, and does not end a thread or loop there."""
    own = as_error(error)
    with contextlib.suppress(Exception):  # whatever keeps it from being pickled
        pickle.loads(pickle.dumps(own))  # noqa: S301  # of our own making
        return own
    kind = MemoryError if isinstance(error, MemoryError) else BackendError
    return kind(f"the model failed with {type(error).__name__}")
