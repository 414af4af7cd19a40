"""An idle model gives its memory back, and is there again at the next call."""

from __future__ import annotations

import json
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra `local`")

from rerank_plugins import ConfigError, load_backend
from rerank_plugins.backends.local.backend import LocalBackend
from rerank_plugins.backends.local.loaded_model import Unloaded

QUERY, DOCUMENTS = "what is a panda?", ["hi", "The giant panda is a bear.", "Paris " * 30]


def wait_until_unloaded(backend: LocalBackend) -> None:
    while True:
        with backend._lock:
            if backend._loaded is None:
                return
        time.sleep(0.001)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_an_idle_model_is_freed_and_loaded_again(
    engine: str, checkpoint: Callable[[str], str]
) -> None:
    """Also its weights, which refer to each other."""
    folder = checkpoint("bert")
    with load_backend({"kind": "local", "model": folder, "engine": engine, "device": "cpu",
                       "unload_after": 0.05}) as backend:  # fmt: skip
        assert isinstance(backend, LocalBackend)
        for _ in range(2):
            scores, name = list(backend.score(QUERY, DOCUMENTS)), backend.name
            with backend._use() as loaded:
                held: Any = loaded.engine
                model = weakref.ref(
                    held._runner._session if engine == "onnx" else held._replicas[0].forward.model
                )
            del loaded, held
            wait_until_unloaded(backend)

            assert model() is None
            assert name == backend.name
            assert backend._loaded is None, "reading the name loads nothing"
            assert scores == pytest.approx(list(backend.score(QUERY, DOCUMENTS)), abs=1e-6)


def test_a_model_in_use_stays(checkpoint: Callable[[str], str]) -> None:
    """However long a call takes; calls in any number meanwhile are all served."""
    with LocalBackend(checkpoint("bert"), engine="onnx", unload_after=0.001) as backend:
        expected = list(backend.score(QUERY, DOCUMENTS))
        with backend._use() as loaded:
            closed = threading.Event()
            loaded.engine.close = closed.set  # type: ignore[method-assign]
            assert not closed.wait(0.05)
            assert loaded is backend._loaded
        assert closed.wait(60)
        with ThreadPoolExecutor(8) as threads:
            calls = [threads.submit(backend.score, QUERY, DOCUMENTS) for _ in range(60)]
            results = [list(call.result()) for call in calls]

        assert all(each == pytest.approx(expected, abs=1e-6) for each in results)
        wait_until_unloaded(backend)


def test_a_call_that_ends_while_the_timer_s_thread_does_starts_another(
    checkpoint: Callable[[str], str],
) -> None:
    """That thread is alive for a moment after it has looked, and it does not look again."""
    with LocalBackend(checkpoint("bert"), engine="onnx", unload_after=1000) as backend:
        timer: Any = backend._idle_timer
        with backend._use():
            with backend._lock:
                timer._last -= 2000
                timer._start(0)
                first = timer._thread
                first.is_alive, is_alive = lambda: True, first.is_alive
            while is_alive():
                time.sleep(0.001)
        assert timer._thread is not first
        assert timer._thread.is_alive()


def test_by_default_it_stays(checkpoint: Callable[[str], str]) -> None:
    with LocalBackend(checkpoint("bert"), engine="onnx") as backend:
        backend.score(QUERY, DOCUMENTS)

        assert backend._idle_timer is None
        assert "rerank-idle" not in [thread.name for thread in threading.enumerate()]


def test_changed_files_are_not_loaded_under_the_old_name(
    checkpoint: Callable[[str], str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint("bert"), tmp_path / "model"))
    with LocalBackend(folder, engine="onnx", unload_after=0.01) as backend:
        name = backend.name
        wait_until_unloaded(backend)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": 0.2}))

        assert name == backend.name
        with pytest.raises(ConfigError, match="changed while it was unloaded"):
            backend.score(QUERY, DOCUMENTS)
        backend.close()
        assert len(backend.score(QUERY, DOCUMENTS)) == len(DOCUMENTS)
        assert name != backend.name


def test_a_hubs_model_comes_back_from_the_same_commit() -> None:
    """Not from the newest one; the digest of a folder is no commit."""
    assert "a" * 40 == Unloaded("local:m", "a" * 40).pinned(None)
    assert "main" == Unloaded("local:m", "a" * 64).pinned("main")


@pytest.mark.parametrize("seconds", [0, -1, "soon", True])
def test_the_time_is_checked(seconds: object) -> None:
    with pytest.raises(ConfigError, match="unload_after"):
        LocalBackend("m", unload_after=seconds)  # type: ignore[arg-type]


def test_closing_ends_the_timer(checkpoint: Callable[[str], str]) -> None:
    with LocalBackend(checkpoint("bert"), engine="onnx", unload_after=1000) as backend:
        backend.score(QUERY, DOCUMENTS)
        timer: Any = backend._idle_timer
        thread = timer._thread
    thread.join(60)

    assert not thread.is_alive()
