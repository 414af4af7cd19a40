"""Torch after a fork: CPU threads that run, and a typed error where only a GPU would do."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra `local`")

import torch

from rerank_plugins import BackendError
from rerank_plugins.backends.local.checkpoint import resolve
from rerank_plugins.backends.local.engine import EngineSettings
from rerank_plugins.backends.local.torch import model as torch_model
from rerank_plugins.backends.local.torch.engine import TorchEngine, load
from rerank_plugins.backends.local.torch.forked import call_with_live_threads

FORKED = "Cannot re-initialize CUDA in forked subprocess"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")
def test_only_the_thread_that_forked_leaves_torch_to_another() -> None:
    def check() -> None:
        forked, substitute = threading.get_ident(), call_with_live_threads(threading.get_ident)
        assert forked != substitute == call_with_live_threads(threading.get_ident)
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(threading.get_ident).result()
            assert other == pool.submit(call_with_live_threads, threading.get_ident).result()
        with pytest.raises(ZeroDivisionError):
            call_with_live_threads(divmod, 1, 0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork among threads
        child = os.fork()
    if child == 0:
        code = 1
        try:
            check()
            code = 0
        finally:
            os._exit(code)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert threading.get_ident() == call_with_live_threads(threading.get_ident)


@pytest.mark.parametrize("devices", [["cuda:0"], ["cpu", "mps"]], ids=str)
def test_a_gpu_of_the_parent_is_a_typed_error(
    devices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where several devices share the work: their threads are gone."""
    replicas: list[Any] = [SimpleNamespace(device=torch.device(name)) for name in devices]
    monkeypatch.setattr("rerank_plugins.backends.local.torch.engine.DevicePool", list)
    tokenizer: Any = None
    engine = TorchEngine(replicas, tokenizer, EngineSettings())
    process = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: process + 1)

    with pytest.raises(BackendError, match=rf"is on {devices[-1]} for process {process}.*spawn"):
        engine.logits([("panda", ["bear"])])


@pytest.mark.parametrize("options", [{}, {"dtype": "float16", "gpu_memory_fraction": 0.5}], ids=str)
def test_a_gpu_that_the_fork_lost_can_not_be_loaded_on(
    options: dict[str, Any], checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever torch notices."""

    def fail(*_: object) -> None:
        raise RuntimeError(FORKED)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", fail)
    monkeypatch.setattr(torch_model, "_has_bfloat16", fail)

    with pytest.raises(BackendError, match=f"can't start on cuda: {FORKED}"):
        load(resolve(checkpoint("qwen3")), EngineSettings(device="cuda", **options))
