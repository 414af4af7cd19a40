"""Optimisations of a model: used where they work, otherwise left out with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra `local`")

import torch

from rerank_plugins import ConfigError
from rerank_plugins.backends.local.checkpoint import resolve
from rerank_plugins.backends.local.engine import EngineSettings
from rerank_plugins.backends.local.torch import engine as torch_engine
from rerank_plugins.backends.local.torch import forward as paths
from rerank_plugins.backends.local.torch import model as torch_model
from rerank_plugins.backends.local.torch.accelerators import choose_devices
from rerank_plugins.backends.local.torch.engine import load
from rerank_plugins.backends.local.torch.model import limit_memory
from rerank_plugins.backends.local.torch.packed import PackedForward

REQUESTS = [("what is a panda?", [f"panda {i} " * (i * 5) for i in range(12)])]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch say that there are two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", pytest.param("qwen3", marks=pytest.mark.nightly)])
def test_a_compiled_model_scores_the_same(
    kind: str, checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced by torch and run as it was traced; other lengths need no other code."""
    monkeypatch.setattr(paths, "_COMPILER", "eager")
    resolved = resolve(checkpoint(kind))
    expected = load(resolved, EngineSettings(device="cpu")).logits(REQUESTS)
    engine = load(resolved, EngineSettings(device="cpu", compile=True))

    assert "by eager" == engine.describe()["compile"]
    assert expected[0] == pytest.approx(engine.logits(REQUESTS)[0], rel=1e-6, abs=1e-5)


def test_a_compiler_that_fails_is_left_out(
    checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(torch, "compile", fail)
    resolved = resolve(checkpoint("bert"))
    engine = load(resolved, EngineSettings(device="cpu", compile=True))

    assert "RuntimeError: no compiler" == engine.describe()["compile"]
    assert 12 == len(engine.logits(REQUESTS)[0])


def test_a_compiler_that_changes_scores_is_left_out(
    checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, **inputs: Any) -> Any:
            output = self.model(**inputs)
            return (output[0] * 0.5,)

    monkeypatch.setattr(torch, "compile", lambda model, **_: Wrong(model))
    resolved = resolve(checkpoint("bert"))
    expected = load(resolved, EngineSettings(device="cpu")).logits(REQUESTS)
    engine = load(resolved, EngineSettings(device="cpu", compile=True))

    assert "scores would differ by" in str(engine.describe()["compile"])
    assert expected[0] == pytest.approx(engine.logits(REQUESTS)[0], rel=1e-6, abs=1e-5)


def test_sharing_that_changes_scores_is_left_out(
    checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a model that looks both ways though it is made like a language model."""
    resolved = resolve(checkpoint("qwen3"))
    real = PackedForward.run

    def run(packed: PackedForward, arrays: Any, longest: int, longest_key: int = 0) -> Any:
        return real(packed, arrays, longest, longest_key) + bool(longest_key)

    monkeypatch.setattr(PackedForward, "run", run)
    facts = load(resolved, EngineSettings(device="cpu")).describe()

    assert "packed" == facts["attention"]
    assert "scores would differ by" in str(facts["shared_prefix"])


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("auto", ["cuda"]),
        ("cuda:1", ["cuda:1"]),
        ("cuda:all", ["cuda:0", "cuda:1"]),
        ("cuda:1,cuda:0", ["cuda:1", "cuda:0"]),
        ("cuda:0,cpu", ["cuda:0", "cpu"]),
    ],
)
def test_devices_are_those_asked_for(device: str, expected: list[str], cuda: None) -> None:
    assert expected == [str(chosen) for chosen in choose_devices(device)]


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:2", "device 'cuda:2' is not available here; available: .*'cuda:1'"),
        ("cuda:0,cuda:7", "device 'cuda:7' is not available here"),
        ("cuda:1,cuda:1", "names one device twice"),
        ("cuda,cuda:0", "names one device twice"),
    ],
)
def test_devices_that_can_not_be_used_are_named_in_the_error(
    device: str, message: str, cuda: None
) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_devices(device)


def test_memory_is_limited_per_device_before_the_model_loads(
    checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[object] = []
    real = torch_model.load_model
    monkeypatch.setattr(torch_engine, "limit_memory", lambda *call: order.append(call))
    monkeypatch.setattr(
        torch_engine, "load_model", lambda *a, **k: (order.append("load"), real(*a, **k))[1]
    )
    resolved = resolve(checkpoint("bert"))
    load(resolved, EngineSettings(device="cpu", gpu_memory_fraction=0.3))

    assert [(torch.device("cpu"), 0.3), "load"] == order


@pytest.mark.parametrize(("device", "number"), [("cuda", 0), ("cuda:1", 1)])
def test_a_gpus_memory_share_is_set(
    device: str, number: int, monkeypatch: pytest.MonkeyPatch, cuda: None
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    monkeypatch.setattr(
        torch._C, "_cuda_setMemoryFraction", lambda *call: asked.append(call), raising=False
    )
    limit_memory(torch.device(device), 0.25)

    assert [(0.25, number)] == asked
