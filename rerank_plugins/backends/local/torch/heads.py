"""The head of a model: from the state of one token to the score."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rerank_plugins.backends.local.checkpoint import Checkpoint
from rerank_plugins.backends.local.labels import Label
from rerank_plugins.backends.local.module_chain import ChainPooling
from rerank_plugins.backends.local.tokenizer import Pooling
from rerank_plugins.errors import ConfigError

__all__ = [
    "find_dtype",
    "find_pooling",
    "keep_answer_rows",
    "mark_overflow",
    "scores",
    "takes_types",
    "upcast_head",
    "upcast_inputs",
]

_HALF = (torch.float16, torch.bfloat16)
_PLAIN = (*_HALF, torch.float32, torch.float64, torch.int64, torch.bool)
"""Of weights that are numbers to multiply with, and of counts and masks beside them."""
_TENSORS = (torch.Tensor, torch.nn.Parameter)
_CHAIN_POOLINGS: Mapping[ChainPooling, Pooling] = {
    "cls": "first",
    "lasttoken": "last",
    "mean": "mean",
    "tokens": "tokens",
}


def scores(logits: torch.Tensor, label: Label | None, *, vectors: bool = False) -> torch.Tensor:
    """Return one score per row of logits, [n, labels]; vectors stay as they are.

    It is the only logit, or the logit of a label's probability. Of the answer tokens of a language
    model, which come without a label, it is the first minus the second.
    """
    if vectors:
        return logits
    if label is None:
        return logits[:, 0] if logits.shape[1] == 1 else logits[:, 0] - logits[:, 1]
    if not label.exclusive:
        return logits[:, label.index]
    # Slices: indices would be copied to the device, which a CUDA graph can't record.
    others = torch.cat([logits[:, : label.index], logits[:, label.index + 1 :]], dim=1)
    return logits[:, label.index] - others.logsumexp(1)


def find_pooling(model: Any, checkpoint: Checkpoint) -> Pooling:
    """Return which rows the model's head reads; the self-check finds a wrong guess."""
    if checkpoint.chain is not None:
        return _CHAIN_POOLINGS[checkpoint.chain.pooling]
    if checkpoint.is_encoder_decoder:
        return "first"  # of the one step that is decoded
    if checkpoint.answer_tokens is not None or hasattr(model, "score"):
        return "last"
    return "mean" if getattr(model.config, "classifier_pooling", None) == "mean" else "first"


def takes_types(model: Any) -> bool:
    """Return whether token types reach the model; those that it is not given would all be 0."""
    parameters = inspect.signature(model.forward).parameters
    backbone = getattr(model, model.base_model_prefix, model)
    if backbone is not model and any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return "token_type_ids" in parameters or takes_types(backbone)
    return "token_type_ids" in parameters


def find_dtype(model: Any) -> torch.dtype:
    """Return the dtype that most weights have.

    `model.dtype` is that of the first weight, which in some models belongs to the float32 head.
    """
    weights: Counter[torch.dtype] = Counter()
    for weight in model.parameters():
        weights[weight.dtype] += weight.numel() if weight.is_floating_point() else 0
    return weights.most_common(1)[0][0]


def mark_overflow(values: torch.Tensor, states: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Return the scores, with NaN where a state that they are read from is not finite.

    A head such as `tanh` would turn infinity into a plausible score.

    Args:
        values: the scores, [n], or vectors, [n, width].
        states: what left the backbone, [n, tokens, width].
        real: which tokens count, [n, tokens].
    """
    overflowed = (~torch.isfinite(states).all(2) & real).any(1)
    return values.masked_fill(overflowed if values.ndim == 1 else overflowed[:, None], torch.nan)


def keep_answer_rows(model: Any, ids: Sequence[int]) -> None:
    """Keep only the rows of a language model's head that belong to its answer tokens.

    The model's own code still runs, with whatever it does to logits afterwards.

    Raises:
        ConfigError: the head is not linear, or has no such tokens.
    """
    full = model.get_output_embeddings()
    if full is None or not hasattr(full, "out_features"):
        raise ConfigError(f"{type(model).__name__} has no linear language model head")
    if max(ids) >= full.out_features or min(ids) < 0:
        raise ConfigError(f"the model has {full.out_features} tokens, and none is token {max(ids)}")
    if not _is_plain(full):
        model.set_output_embeddings(_AnswersOf(full, ids))
        return
    weight = full.weight
    head = torch.nn.Linear(
        full.in_features,
        len(ids),
        bias=full.bias is not None,
        device=weight.device,
        dtype=weight.dtype,
    )
    rows = torch.tensor(ids, device=weight.device)
    with torch.no_grad():
        head.weight.copy_(weight.index_select(0, rows))
        if full.bias is not None:
            head.bias.copy_(full.bias.index_select(0, rows))
    model.set_output_embeddings(head.requires_grad_(requires_grad=False))


def upcast_head(model: Any) -> None:
    """Compute everything after the backbone in float32, if the model is in half precision.

    It reads one row per pair, so this costs next to nothing, and ties become rare.
    """
    backbone = getattr(model, model.base_model_prefix, None)
    if find_dtype(model) not in _HALF or backbone is None:
        return
    parts = [part for part in model.children() if part is not backbone]
    pooler = getattr(backbone, "pooler", None)
    for part in [*parts, *([] if pooler is None else [pooler])]:
        if all(map(_is_plain, part.modules())):
            part.float().register_forward_pre_hook(upcast_inputs, with_kwargs=True)


class _AnswersOf(torch.nn.Module):
    """A head whose weights are in few bits, so that its rows can't be taken: what it answers."""

    def __init__(self, full: torch.nn.Module, ids: Sequence[int]) -> None:
        super().__init__()
        self.full = full
        self._ids = list(ids)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.full(states)
        return torch.stack([logits[..., each] for each in self._ids], dim=-1)


def _is_plain(module: torch.nn.Module) -> bool:
    """Whether a module is no layer whose weights are in few bits, as libraries put them there."""
    if isinstance(module, torch.nn.Linear) and type(module) is not torch.nn.Linear:
        return False
    if getattr(module, "quantization_scheme", None) is not None:  # compressed-tensors
        return False
    weights = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return all(type(each) in _TENSORS and each.dtype in _PLAIN for each in weights)


def upcast_inputs(
    _: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the inputs of a part in float32; a hook before its forward pass."""
    return tuple(map(_to_float32, args)), {
        name: _to_float32(value) for name, value in kwargs.items()
    }


def _to_float32(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.dtype in _HALF else value
