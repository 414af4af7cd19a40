"""The head of a chain of modules as data, for the graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rerank_plugins.backends.local.engine import UnsupportedByEngine
from rerank_plugins.backends.local.module_chain import ChainPooling, ModuleChain, Step
from rerank_plugins.backends.local.onnx.build.encoder import (
    Activation,
    Dense,
    Head,
    HeadPooling,
    HeadStep,
    Linear,
    Norm,
    UnitLength,
)
from rerank_plugins.backends.local.onnx.build.weights import Array, Tensors

__all__ = ["read_chain_head"]

_ACTIVATIONS: Mapping[str, Activation | None] = {
    "GELU": "gelu",
    "Identity": None,
    "ReLU": "relu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
}
"""The classes of `torch.nn` that the graph has."""

_POOLINGS: Mapping[ChainPooling, HeadPooling] = {
    "cls": "cls",
    "lasttoken": "last",
    "mean": "mean",
    "tokens": "tokens",
}

_EPSILON = 1e-5
"""Of torch's `LayerNorm`, which the module does not change."""


def read_chain_head(chain: ModuleChain, folder: Path) -> Head:
    """Return the head of a chain with its weights.

    Args:
        chain: what the modules are.
        folder: the folder of the model, which theirs are in.

    Raises:
        UnsupportedByEngine: the graph lacks an activation.
        ConfigError: a file is broken.
    """
    steps = tuple(
        HeadStep(_operation(step, folder), step.source, step.target) for step in chain.steps
    )
    return Head(steps, chain.num_outputs, _POOLINGS[chain.pooling], chain.input, chain.output)


def _operation(step: Step, folder: Path) -> Dense | Norm | UnitLength:
    if step.kind == "Normalize":
        return UnitLength()
    tensors = Tensors(folder / step.folder)  # they are read as they are needed
    if step.kind == "LayerNorm":
        return Norm(_read(tensors, "norm.weight"), _read(tensors, "norm.bias"), _EPSILON)
    if step.activation not in _ACTIVATIONS:
        raise UnsupportedByEngine(
            f"the ONNX engine does not know the activation {step.activation!r} of the module "
            f'{step.folder}, only: {", ".join(_ACTIVATIONS)}; use engine="torch"'
        )
    return Dense(
        Linear(
            _read(tensors, "linear.weight"), _read(tensors, "linear.bias") if step.bias else None
        ),
        _ACTIVATIONS[step.activation],
        Linear(_read(tensors, "residual.weight"), None) if step.residual == "linear" else None,
        adds_input=step.residual == "input",
    )


def _read(tensors: Tensors, name: str) -> Array:
    try:
        return tensors[name].astype(np.float32, copy=False)
    except KeyError:
        raise UnsupportedByEngine(
            f'the ONNX engine can\'t read the dtype of the weights {name!r}; use engine="torch"'
        ) from None
