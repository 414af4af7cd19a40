"""The choice of an engine: by model, device, settings and installed packages."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra `local`")

from dataclasses import replace

from rerank_plugins import MissingDependencyError, load_backend
from rerank_plugins.backends.local import select as choice
from rerank_plugins.backends.local.checkpoint import resolve
from rerank_plugins.backends.local.engine import EngineSettings, UnsupportedByEngine
from rerank_plugins.backends.local.select import EngineName, check_installed, load_engine


def chosen(folder: str, engine: EngineName = "auto", **changes: Any) -> tuple[object, str]:
    loaded, reason = load_engine(engine, resolve(folder), EngineSettings(**changes))
    return loaded.describe()["engine"], reason


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make a package look as if it were not installed."""
    return lambda package: monkeypatch.setitem(sys.modules, package, None)


def test_the_processor_gets_onnx(checkpoint: Callable[[str], str]) -> None:
    assert ("onnx", "no GPU is used") == chosen(checkpoint("bert"), device="cpu")


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_a_requested_engine_is_selected(
    engine: EngineName, checkpoint: Callable[[str], str]
) -> None:
    assert (engine, "set by `engine`") == chosen(checkpoint("bert"), engine, device="cpu")


def test_a_gpu_gets_torch_also_for_int8(
    checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "_has_gpu", lambda _: True)

    assert ("torch", "not onnx: there is a GPU") == chosen(checkpoint("bert"))
    assert "torch" == chosen(checkpoint("bert"), dtype="int8")[0]


def test_int8_gets_torch_where_onnx_cannot_run_the_model(
    checkpoint: Callable[[str], str],
) -> None:
    assert "onnx" == chosen(checkpoint("bert"), device="cpu", dtype="int8")[0]
    assert "torch" == chosen(checkpoint("qwen3"), device="cpu", dtype="int8")[0]


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_a_device_that_is_set_is_no_gpu_that_exists(
    checkpoint: Callable[[str], str], without: Callable[[str], None], device: str
) -> None:
    without("torch")
    with pytest.raises(MissingDependencyError) as caught:
        chosen(checkpoint("bert"), device=device)

    assert f"`device` is '{device}'" in str(caught.value)
    assert "GPU" not in str(caught.value)


def test_settings_of_torch_get_torch(checkpoint: Callable[[str], str]) -> None:
    """And what the other engine lacks is told."""
    for changes in ({"attention": "padded"}, {"dtype": "bfloat16"}):
        engine, reason = chosen(checkpoint("bert"), device="cpu", **changes)

        assert "torch" == engine
        assert reason.startswith("not onnx: the ONNX engine")


def test_a_model_that_onnx_can_not_run_gets_torch(checkpoint: Callable[[str], str]) -> None:
    assert "torch" == chosen(checkpoint("qwen3"), device="cpu")[0]
    with pytest.raises(UnsupportedByEngine):
        chosen(checkpoint("qwen3"), "onnx", device="cpu")


def test_a_models_own_code_is_left_to_torch(checkpoint: Callable[[str], str]) -> None:
    resolved = resolve(checkpoint("bert"))
    resolved = replace(
        resolved, config={**resolved.config, "auto_map": {"AutoModel": "mine.Model"}}
    )
    settings = EngineSettings(device="cpu", trust_remote_code=True)

    assert "brings its own code" in str(choice._why_not_onnx(resolved, settings))
    with pytest.raises(UnsupportedByEngine, match="which only the torch engine can run"):
        choice.load_engine("onnx", resolved, settings)
    assert choice._why_not_onnx(resolved, EngineSettings(device="cpu")) is None


def test_without_onnxruntime_torch_is_taken(
    checkpoint: Callable[[str], str], without: Callable[[str], None]
) -> None:
    without("onnxruntime")
    engine, reason = chosen(checkpoint("bert"), device="cpu")

    assert "torch" == engine
    assert "rerank-plugins[onnx]" in reason


def test_without_torch_the_error_says_why_not_onnx(
    checkpoint: Callable[[str], str], without: Callable[[str], None]
) -> None:
    without("torch")
    assert "onnx" == chosen(checkpoint("bert"))[0]
    with pytest.raises(MissingDependencyError, match=r"rerank-plugins\[local\].*onnx engine can't"):
        chosen(checkpoint("bert"), dtype="float16")


def test_a_missing_package_is_an_error_before_any_download(
    without: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody should wait for gigabytes to learn that torch is not installed."""
    monkeypatch.setattr("rerank_plugins.backends.local.backend.resolve", pytest.fail)
    without("torch")

    with pytest.raises(MissingDependencyError, match=r"rerank-plugins\[local\]"):
        load_backend("local:some/model?engine=torch").score("q", ["a"])


def test_one_engine_is_enough(without: Callable[[str], None]) -> None:
    without("torch")
    check_installed("auto")
    without("onnxruntime")

    with pytest.raises(MissingDependencyError):
        check_installed("auto")
