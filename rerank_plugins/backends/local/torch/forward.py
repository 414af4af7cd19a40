"""The forward pass: padded or packed, compiled or recorded; chosen when the model loads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeAlias

import torch

from rerank_plugins.backends.local.checkpoint import Checkpoint
from rerank_plugins.backends.local.engine import EngineSettings, UnsupportedByEngine
from rerank_plugins.backends.local.torch.cuda_graphs import CUDAGraphForward
from rerank_plugins.backends.local.torch.packed import CannotPack, PackedForward
from rerank_plugins.backends.local.torch.padded import PaddedForward
from rerank_plugins.backends.local.torch.self_check import find_difference, make_check_pairs

__all__ = ["Forward", "choose_forward", "overflows"]

Forward: TypeAlias = PaddedForward | PackedForward | CUDAGraphForward
"""Runs a model on a batch of pairs."""

_COMPILER = "inductor"


def choose_forward(
    model: Any, checkpoint: Checkpoint, settings: EngineSettings
) -> tuple[Forward, str]:
    """Return how to run the model, and the reason.

    An optimisation that fails or changes scores is dropped; `facts` then hold the reason.

    Raises:
        UnsupportedByEngine: a setting is impossible for this model or device.
    """
    if settings.cuda_graphs and model.device.type != "cuda":
        raise UnsupportedByEngine(
            f"`cuda_graphs` needs a CUDA GPU, and the model runs on {str(model.device)!r}"
        )
    faster = settings.compile or settings.cuda_graphs
    if settings.attention == "padded":
        if faster:
            raise UnsupportedByEngine('`compile` and `cuda_graphs` need attention="packed"')
        return PaddedForward(model, checkpoint, check=True), "set by `attention`"
    try:
        packed = PackedForward(model, checkpoint)
    except CannotPack as exc:
        if settings.attention == "packed" or faster:
            raise UnsupportedByEngine(
                f"{checkpoint.model!r} can't be scored without padding: {exc}"
            ) from exc
        return PaddedForward(model, checkpoint, check=True), str(exc)
    if settings.compile:
        _compile(packed, checkpoint)
    reason = "gave the scores of pairs one by one when it was loaded"
    return (_graphed(packed, checkpoint) if settings.cuda_graphs else packed), reason


def overflows(model: Any, checkpoint: Checkpoint) -> bool:
    """Return whether values get too large for the dtype of a model."""
    with torch.inference_mode():
        logits = PaddedForward(model, checkpoint)(make_check_pairs(model.config, checkpoint))
    return not bool(torch.isfinite(logits).all())


def _compile(packed: PackedForward, checkpoint: Checkpoint) -> None:
    """Compile the backbone with torch, if the scores stay the same."""
    pairs, plain = make_check_pairs(packed.model.config, checkpoint), packed.backbone
    try:
        with torch.inference_mode():
            expected = packed(pairs)
            packed.backbone = torch.compile(plain, dynamic=True, backend=_COMPILER)
            reason = find_difference(packed(pairs), expected, packed.dtype)
    except Exception as exc:  # noqa: BLE001 - compilers fail in any way
        reason = f"{type(exc).__name__}: {str(exc).strip().partition(chr(10))[0]}"
    if reason is not None:
        packed.backbone = plain
    packed.facts["compile"] = reason or f"by {_COMPILER}"


def _graphed(packed: PackedForward, checkpoint: Checkpoint) -> PackedForward | CUDAGraphForward:
    """Run small batches as CUDA graphs, if the scores stay the same."""
    pairs = replace(make_check_pairs(packed.model.config, checkpoint), groups=None, shared=None)
    try:
        graphed = CUDAGraphForward(packed, longest=checkpoint.max_length)
        with torch.inference_mode(), torch.cuda.device(packed.model.device):
            reason = find_difference(graphed(pairs), packed(pairs), packed.dtype)
    except RuntimeError as exc:
        reason = f"{type(exc).__name__}: {exc}"
    if reason is None:
        return graphed
    packed.facts["cuda_graphs"] = reason
    return packed
