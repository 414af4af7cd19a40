"""Which engine scores: the one asked for, or the one that suits the machine and the model."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import sys
from pathlib import Path
from typing import Any, Literal, TypeAlias

from rerank_plugins._internal.optional import require
from rerank_plugins.backends.local.checkpoint import Checkpoint
from rerank_plugins.backends.local.engine import Engine, EngineSettings, UnsupportedByEngine
from rerank_plugins.errors import MissingDependencyError

__all__ = ["EngineName", "check_installed", "load_engine"]

EngineName: TypeAlias = Literal["auto", "onnx", "torch"]

_ENGINES = {
    "onnx": "rerank_plugins.backends.local.onnx.engine",
    "torch": "rerank_plugins.backends.local.torch.engine",
}
"""Engine → the module that has its `load(checkpoint, settings)`."""

_NEEDS = {
    "onnx": ("numpy", "onnxruntime", "tokenizers"),
    "torch": ("numpy", "safetensors", "tokenizers", "torch", "transformers"),
}
"""What an engine's module imports."""

_EXTRAS = {"onnx": "onnx", "torch": "local"}


def load_engine(
    engine: EngineName, checkpoint: Checkpoint, settings: EngineSettings
) -> tuple[Engine, str]:
    """Load the engine asked for, or the one that suits; say why it was taken.

    Raises:
        ConfigError: the engine can't run this checkpoint with these settings.
        MissingDependencyError: the engine is not installed.
        BackendError: the model does not fit into memory.
    """
    if engine == "onnx":
        _refuse_for_onnx(checkpoint, settings)
    if engine != "auto":
        return _imported(engine).load(checkpoint, settings), "asked for"
    reason = _why_not_onnx(checkpoint, settings)
    if reason is None:
        try:
            return _imported("onnx").load(checkpoint, settings), "no GPU is used"
        except (UnsupportedByEngine, MissingDependencyError) as exc:
            reason = str(exc)
    try:
        return _imported("torch").load(checkpoint, settings), f"not onnx: {reason}"
    except MissingDependencyError as exc:
        raise MissingDependencyError(f"{exc} (the onnx engine can't be used: {reason})") from exc


def _why_not_onnx(checkpoint: Checkpoint, settings: EngineSettings) -> str | None:
    if settings.trust_remote_code and checkpoint.config.get("auto_map"):
        return "the model brings its own code"
    if settings.dtype != "int8" and _has_gpu(settings.device):
        return "there is a GPU"
    try:
        _refuse_for_onnx(checkpoint, settings)
    except UnsupportedByEngine as exc:
        return str(exc)
    return None


def _refuse_for_onnx(checkpoint: Checkpoint, settings: EngineSettings) -> None:
    """Refuse what the ONNX engine would have to ignore."""
    if checkpoint.prompt is not None or checkpoint.answer_tokens is not None:
        raise UnsupportedByEngine(
            f"{checkpoint.model!r} reads pairs in a prompt or answers in words, which only the "
            "torch engine can do"
        )
    for option in ("compile", "cuda_graphs", "gpu_memory_fraction"):
        if getattr(settings, option):
            raise UnsupportedByEngine(f"`{option}` belongs to the torch engine")


def check_installed(engine: EngineName) -> None:
    """Check that the engine asked for, or any engine, can be imported.

    Raises:
        MissingDependencyError: it is not installed; the message names the extra.
    """
    if engine != "auto":
        _require(engine)
        return
    try:
        _require("onnx")
    except MissingDependencyError:
        _require("torch")


def _require(engine: str) -> None:
    for package in _NEEDS[engine]:
        if importlib.util.find_spec(package) is None:
            require(package, extra=_EXTRAS[engine])


def _imported(engine: str) -> Any:
    _require(engine)
    return importlib.import_module(_ENGINES[engine])


def _has_gpu(device: str) -> bool:
    """Tell without torch that there is no GPU; ask torch only where there could be one."""
    if device != "auto":
        return device != "cpu"
    if importlib.util.find_spec("torch") is None:
        return False
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    hints = ("/proc/driver/nvidia/version", "/dev/kfd", "/dev/dxg")
    if sys.platform != "win32" and not any(Path(hint).exists() for hint in hints):
        return False
    return bool(importlib.import_module("torch").cuda.is_available())
