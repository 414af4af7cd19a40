"""Weights in 8 or 4 bits: linear layers that are small in memory, and compute as before."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any, Literal, TypeAlias, get_args

import torch

from rerank_plugins._internal.optional import require
from rerank_plugins.backends.local.engine import UnsupportedByEngine

__all__ = ["QUANTISED", "QuantisedDType", "quantise_weights", "weight_bytes"]

QuantisedDType: TypeAlias = Literal["int8", "int4"]
"""What a user may choose for weights alone."""
QUANTISED: tuple[str, ...] = get_args(QuantisedDType)

_LARGEST = 127


class _Int8Linear(torch.nn.Module):
    """A linear layer whose weights are whole numbers, with a scale for each output.

    Inputs are not rounded, so the score of a pair does not depend on its batch, as it would where
    a whole batch decides which columns are outliers (LLM.int8).
    """

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        wide = weight.float()
        largest = wide.abs().amax(1, keepdim=True)
        scale = torch.where(largest == 0, torch.ones_like(largest), largest) / _LARGEST
        self.weight: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("weight", (wide / scale).round().to(torch.int8))
        self.register_buffer("scale", scale.to(weight.dtype))
        self.bias = linear.bias

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        weight = self.weight.to(states.dtype) * self.scale.to(states.dtype)
        return torch.nn.functional.linear(states, weight, self.bias)


def quantise_weights(model: Any, dtype: QuantisedDType, device: torch.device) -> None:
    """Round the weights of the linear layers of a model's body, one after the other.

    The head and the embeddings stay as they are: they decide most, or are only looked up.

    Args:
        model: the transformers model, on the CPU.
        dtype: `"int8"`, one scale per output; or `"int4"`, NF4 in blocks of 64 (bitsandbytes).
        device: where it will run; 4-bit weights go there at once.

    Raises:
        UnsupportedByEngine: the body has no linear layers.
        MissingDependencyError: bitsandbytes is not installed.
    """
    body = getattr(model, model.base_model_prefix, model)
    layers = list(_linear_layers(body, _kept(model)))
    if not layers:
        raise UnsupportedByEngine(
            f"{type(body).__name__} has no linear layers that could be kept in {dtype}; leave out "
            "`dtype`"
        )
    for parent, name, linear in layers:
        small: torch.nn.Module = (
            _Int8Linear(linear) if dtype == "int8" else _in_4_bits(linear, device)
        )
        setattr(parent, name, small)


def weight_bytes(model: Any) -> int:
    """Return the bytes of all weights, each counted once."""
    tensors = {id(each): each for each in (*model.parameters(), *model.buffers())}
    return sum(int(each.nbytes) + _state_bytes(each) for each in tensors.values())


def _state_bytes(weight: Any) -> int:
    """Return the bytes of the scales that bitsandbytes keeps beside 4-bit weights."""
    scales = getattr(getattr(weight, "quant_state", None), "absmax", None)
    return 0 if scales is None else int(scales.nbytes)


def _kept(model: Any) -> set[object]:
    """Return what stays: the head, and layers whose dtype the model's own code looks at."""
    names = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    found: set[object] = {
        part for path, part in model.named_modules() if path.rpartition(".")[2] in names
    }
    embeddings = getattr(model, "get_output_embeddings", None)
    return found | {None if embeddings is None else embeddings()}


def _linear_layers(
    body: torch.nn.Module, kept: Container[object]
) -> Iterator[tuple[torch.nn.Module, str, torch.nn.Linear]]:
    """Yield the layers with their parents; a pooler belongs to the head."""
    for path, parent in body.named_modules():
        if path.partition(".")[0] == "pooler":
            continue
        for name, child in parent.named_children():
            if type(child) is torch.nn.Linear and child not in kept:
                yield parent, name, child


def _in_4_bits(linear: torch.nn.Linear, device: torch.device) -> torch.nn.Module:
    library = require("bitsandbytes", extra="bitsandbytes")
    small: torch.nn.Module = library.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=linear.weight.dtype,
        quant_type="nf4",
        device="meta",
    )
    small.weight = library.nn.Params4bit(
        linear.weight.detach(), requires_grad=False, compress_statistics=False, quant_type="nf4"
    )
    small.bias = linear.bias
    return small.to(device)
