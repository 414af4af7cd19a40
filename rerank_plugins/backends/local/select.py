"""Select the engine: the one that was set, or the one that suits machine and model."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any, Literal, TypeAlias

from rerank_plugins._internal.optional import require
from rerank_plugins.backends.local.checkpoint import Checkpoint
from rerank_plugins.backends.local.engine import Engine, EngineSettings, UnsupportedByEngine
from rerank_plugins.backends.local.ready_graph import USUAL_GRAPHS
from rerank_plugins.errors import MissingDependencyError

__all__ = ["EngineName", "check_installed", "load_engine", "reasons_against"]

EngineName: TypeAlias = Literal["auto", "onnx", "torch"]

_ENGINES = {
    "onnx": "rerank_plugins.backends.local.onnx.engine",
    "torch": "rerank_plugins.backends.local.torch.engine",
}
"""Engine → the module with its `load(checkpoint, settings)`."""

_ARCHITECTURES = "rerank_plugins.backends.local.onnx.build.architectures"

_PACKAGES = {
    "onnx": ("numpy", "onnxruntime", "tokenizers"),
    "torch": ("numpy", "safetensors", "tokenizers", "torch", "transformers"),
}
"""Engine → the packages that its module imports."""

_EXTRAS = {"onnx": "onnx", "torch": "local"}
_SIGNS_OF_GPU = (
    "/proc/driver/nvidia/version",
    "/dev/kfd",  # AMD
    "/dev/dxg",  # any, in WSL
    "/dev/dri/renderD128",  # Intel, and most others
    "/dev/davinci_manager",  # Ascend
    "/dev/mtgpu.0",  # Moore Threads
    "/dev/accel/accel0",  # Gaudi, and others
)
"""What Linux shows of the drivers of accelerators."""


def load_engine(
    engine: EngineName, checkpoint: Checkpoint, settings: EngineSettings
) -> tuple[Engine, str]:
    """Load the engine that was set, or the one that suits; return it and the reason.

    Raises:
        ConfigError: the engine can't run this checkpoint with these settings.
        MissingDependencyError: the engine is not installed.
        BackendError: the model does not fit into memory.
    """
    if checkpoint.graph is not None:
        return _run_graph(engine, checkpoint, settings)
    if engine == "onnx":
        _refuse_for_onnx(checkpoint, settings)
    if engine != "auto":
        return _import_engine(engine).load(checkpoint, settings), "set by `engine`"
    reason = _why_not_onnx(checkpoint, settings)
    if reason is None:
        try:
            return _import_engine("onnx").load(checkpoint, settings), "no GPU is used"
        except (UnsupportedByEngine, MissingDependencyError) as exc:
            reason = str(exc)
    try:
        return _import_engine("torch").load(checkpoint, settings), f"not onnx: {reason}"
    except MissingDependencyError as exc:
        raise MissingDependencyError(f"{exc} (the onnx engine can't be used: {reason})") from exc


def reasons_against(
    engine: EngineName, checkpoint: Checkpoint, settings: EngineSettings
) -> dict[str, str | None]:
    """Return for each engine that may be chosen why it can't run a checkpoint; None: it can.

    Nothing is loaded: what only its weights show is not seen.
    """
    names = ["onnx", "torch"] if engine == "auto" else [engine]
    return {name: _reason_against(name, checkpoint, settings) for name in names}


def _reason_against(name: str, checkpoint: Checkpoint, settings: EngineSettings) -> str | None:
    try:
        _require_packages(name)
        if checkpoint.graph is not None:
            return None if name == "onnx" else "it is an ONNX graph, which the ONNX engine runs"
        if name == "onnx":
            _refuse_for_onnx(checkpoint, settings)
            architectures = importlib.import_module(_ARCHITECTURES)
            architectures.check_model_type(checkpoint.model_type)
    except (UnsupportedByEngine, MissingDependencyError) as exc:
        has_graph = any((checkpoint.folder / graph).exists() for graph in USUAL_GRAPHS)
        is_whole = checkpoint.chain is None and isinstance(exc, UnsupportedByEngine)
        return None if name == "onnx" and is_whole and has_graph else str(exc)
    return None


def _run_graph(
    engine: EngineName, checkpoint: Checkpoint, settings: EngineSettings
) -> tuple[Engine, str]:
    """Load a graph that comes ready, which one engine can run."""
    if engine == "torch" or settings.device not in ("auto", "cpu"):
        raise UnsupportedByEngine(
            f"{checkpoint.model!r} is an ONNX graph, which the ONNX engine runs on the CPU; leave "
            "out `engine` and `device`, or take a model in safetensors"
        )
    _refuse_for_onnx(checkpoint, settings)
    return _import_engine("onnx").load(checkpoint, settings), "the model is an ONNX graph"


def _why_not_onnx(checkpoint: Checkpoint, settings: EngineSettings) -> str | None:
    if _has_gpu(settings.device):
        named = f"`device` is {settings.device!r}"
        return "there is a GPU" if settings.device == "auto" else named
    try:
        _refuse_for_onnx(checkpoint, settings)
    except UnsupportedByEngine as exc:
        return str(exc)
    return None


def _refuse_for_onnx(checkpoint: Checkpoint, settings: EngineSettings) -> None:
    """Refuse what the ONNX engine would have to ignore.

    Raises:
        UnsupportedByEngine: the checkpoint or a setting needs the torch engine.
    """
    if checkpoint.prompt is not None or checkpoint.answer_tokens is not None:
        raise UnsupportedByEngine(
            f"{checkpoint.model!r} is a language model or uses a prompt, which only the torch "
            "engine can run"
        )
    if checkpoint.quantisation is not None:
        raise UnsupportedByEngine(
            f"the weights of {checkpoint.model!r} are quantised ({checkpoint.quantisation}), which "
            "only the torch engine can read; set engine='torch', or take the model in float32"
        )
    if settings.trust_remote_code and checkpoint.config.get("auto_map"):
        raise UnsupportedByEngine(
            f"{checkpoint.model!r} brings its own code, which only the torch engine can run; leave "
            "out `trust_remote_code`, or set another engine"
        )
    for option in ("compile", "cuda_graphs", "gpu_memory_fraction"):
        if getattr(settings, option):
            raise UnsupportedByEngine(f"`{option}` is for the torch engine only")


def check_installed(engine: EngineName) -> None:
    """Check that the engine that was set, or any engine for `"auto"`, is installed.

    Raises:
        MissingDependencyError: it is not installed; the message names the extra.
    """
    if engine != "auto":
        _require_packages(engine)
        return
    try:
        _require_packages("onnx")
    except MissingDependencyError:
        _require_packages("torch")


def _require_packages(engine: str) -> None:
    for package in _PACKAGES[engine]:
        if importlib.util.find_spec(package) is None:
            require(package, extra=_EXTRAS[engine])


def _import_engine(engine: str) -> Any:
    _require_packages(engine)
    return importlib.import_module(_ENGINES[engine])


def _has_gpu(device: str) -> bool:
    """Return whether a GPU would be used; imports torch only where there may be one."""
    if device != "auto":
        return device != "cpu"
    if importlib.util.find_spec("torch") is None or sys.platform == "darwin":
        return False
    if sys.platform != "win32" and not any(Path(hint).exists() for hint in _SIGNS_OF_GPU):
        return False
    return bool(importlib.import_module("torch").accelerator.is_available())
