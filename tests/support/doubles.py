"""Backends that other processes, and specs, can import."""

from __future__ import annotations

import gc
import logging
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from rerank_plugins import ConfigError, InvalidResponse
from rerank_plugins.backend import Backend, ServerCheck
from rerank_plugins.backends.model_files import ModelFiles
from rerank_plugins.content import Document, Query, Requests, check_texts
from rerank_plugins.hooks import Truncated
from rerank_plugins.hooks._dispatch import emit
from rerank_plugins.scores import Scores
from rerank_plugins.testing import FakeBackend

__all__ = [
    "Frozen",
    "Hungry",
    "Marked",
    "Outlived",
    "OwnClient",
    "OwnClientInside",
    "OwnWrapper",
    "Stuck",
    "Swapping",
    "Unloadable",
    "Verbose",
    "VerboseUnloadable",
]


class Panic(BaseException):
    """The kind of exception that libraries in Rust raise on a panic."""


class Marked(Backend):
    """Scores by length, and does what a document is called.

    `poison`, `crash` and `panic` raise, `nan` is no number, `short` lacks a score, `memory` runs
    out beyond one pair, `no memory` always, `odd memory` with an error that can't be sent, `kill`
    kills the process, `hang` hangs, `long` is told to have been cut.
    """

    scale = "logit"

    def __init__(self, *, seconds: float = 0.0, per_pair: float = 0.0) -> None:
        self.seconds = seconds
        self.per_pair = per_pair
        self.batches: list[list[str]] = []

    @property
    def name(self) -> str:
        return "marked"

    def score(self, query: str | Query, documents: Sequence[Document]) -> Scores:
        return self.score_many([(query, documents)])[0]

    def score_many(self, requests: Requests) -> list[Scores]:
        asked = [check_texts(query, documents)[1] for query, documents in requests]
        texts = [text for candidates in asked for text in candidates]
        self.batches.append(texts)
        if pause := self.seconds + self.per_pair * len(texts):
            threading.Event().wait(pause)  # libfaketime breaks `time.sleep`
        if "kill" in texts:
            os.kill(os.getpid(), signal.SIGKILL)
        if "hang" in texts:
            time.sleep(3600)
        if "poison" in texts:
            raise InvalidResponse("poison")
        if "panic" in texts:
            raise Panic("panic")
        if "crash" in texts:
            raise ZeroDivisionError("crash")
        if "odd memory" in texts:
            error = MemoryError()
            error.allocator = lambda: None  # type: ignore[attr-defined]  # as libraries do
            raise error
        if "long" in texts:
            emit(Truncated(1))
        if "no memory" in texts or ("memory" in texts and len(texts) > 1):
            raise MemoryError
        return [
            [
                float("nan") if text == "nan" else float(len(text))
                for text in candidates
                if text != "short"
            ]
            for candidates in asked
        ]

    def scored(self) -> list[str]:
        return [text for batch in self.batches for text in batch]


class Frozen(Marked):
    """Scores by how many objects the process keeps from its garbage collector."""

    def score_many(self, requests: Requests) -> list[Scores]:
        return [
            Scores([float(gc.get_freeze_count())] * len(documents)) for _, documents in requests
        ]


class Hungry(Marked):
    """Takes `pair_bytes` of memory for each pair of a batch; scores by length."""

    def __init__(self, *, pair_bytes: int) -> None:
        super().__init__()
        self.pair_bytes = pair_bytes

    def score_many(self, requests: Requests) -> list[Scores]:
        import numpy as np  # noqa: PLC0415 - else every process of a test would wait for it

        np.empty(self.pair_bytes * sum(len(documents) for _, documents in requests), np.uint8)
        return super().score_many(requests)


class Outlived(Marked):
    """Its process has a child that outlives it, forked or started; `file` tells its id.

    The child has the pipes of the process, as those of libraries that compute in processes have.
    """

    def __init__(self, *, file: str, way: str, at_load: bool = False) -> None:
        super().__init__()
        self.file = file
        self.way = way
        self.at_load = at_load

    def describe(self) -> dict[str, object]:
        if self.at_load:
            self._start_child()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().describe()

    def score_many(self, requests: Requests) -> list[Scores]:
        if not Path(self.file).exists():
            self._start_child()
        return super().score_many(requests)

    def _start_child(self) -> None:
        if self.way == "forked":
            child = os.fork()
            if not child:
                time.sleep(600)
                os._exit(0)
        else:
            child = subprocess.Popen(["/bin/sleep", "600"]).pid
        Path(self.file).write_text(str(child))


class Stuck(Marked):
    """Its model hangs while it loads, from the time on when there is the file `blocked`.

    Args:
        blocked: the path of the file.
        holds_lock: whether no other thread of its process runs meanwhile.
    """

    def __init__(self, *, blocked: str, holds_lock: bool = False) -> None:
        super().__init__()
        self.blocked = blocked
        self.holds_lock = holds_lock

    @property
    def name(self) -> str:
        if os.path.exists(self.blocked):  # noqa: PTH110 - as short as it can be
            if self.holds_lock:
                re.match("(a+)+$", "a" * 60 + "b")
            time.sleep(3600)
        return "stuck"


class Swapping(Marked):
    """Its weights are exchanged after they were checked and before they are opened.

    Args:
        folder: holds `weights`, and `others` that take their place.
        back: whether they are there again once the model is loaded.
    """

    def __init__(self, *, folder: str, back: bool = False) -> None:
        super().__init__()
        self.folder = folder
        self.back = back
        self.loaded = b""

    def model_files(self) -> ModelFiles:
        return ModelFiles("swapping", "1", {"weights": Path(self.folder, "weights")})

    @property
    def name(self) -> str:
        weights, others = Path(self.folder, "weights"), Path(self.folder, "others")
        if not self.loaded:
            kept = weights.rename(weights.with_name("kept"))
            others.rename(weights)
            self.loaded = weights.read_bytes()
            if self.back:
                weights.rename(others)
                kept.rename(weights)
        return "swapping"


class Verbose(Marked):
    """Logs far more than a pipe holds; so does its process, which has no handler, on stderr."""

    def score_many(self, requests: Requests) -> list[Scores]:
        for _ in range(1000):
            logging.getLogger("verbose").warning("x" * 99)
        return super().score_many(requests)


class VerboseUnloadable(Verbose):
    """Logs as much, and then can't be loaded."""

    @property
    def name(self) -> str:
        self.score_many([("q", ["a"])])
        raise ConfigError("there is no such model")


class Unloadable(Marked):
    """Its model can't be loaded."""

    @property
    def name(self) -> str:
        raise ConfigError("there is no such model")


class OwnClient(FakeBackend):
    """A client of another server that a user has written."""

    endpoint = "gpu:9997"

    def check_servers(self):
        yield ServerCheck(ok=False, detail="gpu:9997 sleeps; wake it", facts={"version": "7"})


class OwnWrapper(Backend):
    """A wrapper that a user has written from the interface alone."""

    name = "own"
    children = ()

    def __init__(self, wrapped):
        self.children = (wrapped,)

    def with_children(self, children):
        return OwnWrapper(*children)

    def score(self, query, documents):
        return self.children[0].score(query, documents)


class OwnClientInside(OwnWrapper):
    """The two together, as a file can name them."""

    def __init__(self):
        super().__init__(OwnClient())
