"""A body and a chain of modules as one torch model, which the forward passes run like any other."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.modeling_outputs import SequenceClassifierOutput

from rerank_plugins.backends.local.module_chain import WEIGHTS, ModuleChain, Step
from rerank_plugins.errors import ConfigError

__all__ = ["ChainModel"]

_HALF = (torch.float16, torch.bfloat16)


class ChainModel(torch.nn.Module):
    """Scores like a sequence classifier of transformers, with the head of a chain.

    The head stays in float32.

    Args:
        body: a transformers model without a head.
        chain: the pooling and the head's modules.
        folder: where the weights of the modules are.

    Raises:
        ConfigError: torch has no such activation, or the weights can't be read.
    """

    base_model_prefix = "body"

    def __init__(self, body: Any, chain: ModuleChain, folder: Path) -> None:
        super().__init__()
        self.body = body
        self.head = _Head(chain, folder)
        self.config = body.config
        self._pooling = chain.pooling
        self._takes_types = "token_type_ids" in inspect.signature(body.forward).parameters
        self._supports_attention_backend = getattr(body, "_supports_attention_backend", False)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.body.device
        return device

    def set_attn_implementation(self, name: str) -> None:
        """Set the attention function of the body, as models of transformers do."""
        self.body.set_attn_implementation(name)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Return `logits`, [n, labels], of ids, [n, tokens], that are padded on the right.

        Of a model of tokens they are [n, tokens, width].
        """
        types = {"token_type_ids": token_type_ids} if self._takes_types else {}
        states = self.body(input_ids=input_ids, attention_mask=attention_mask, **types)[0]
        return SequenceClassifierOutput(logits=self.head(self._pool(states, attention_mask)))

    def _pool(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if states.shape[1] == 1 or mask is None or self._pooling == "cls":
            return states[:, 0]  # a single row is pooled already, whatever the mask says
        if self._pooling == "tokens":
            return states
        if self._pooling == "lasttoken":
            return states.take_along_dim((mask.sum(1) - 1)[:, None, None], dim=1)[:, 0]
        wide = states.float() if states.dtype in _HALF else states
        weights = mask[:, :, None].to(wide.dtype)
        return (wide * weights).sum(1) / weights.sum(1)


class _Head(torch.nn.Module):
    """Runs the modules of a head on vectors, [..., width] to [..., labels]."""

    def __init__(self, chain: ModuleChain, folder: Path) -> None:
        super().__init__()
        self._steps = chain.steps
        self._input, self._output = chain.input, chain.output
        self._modules_of_steps = torch.nn.ModuleList(_load(step, folder) for step in chain.steps)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        wide = pooled.float() if pooled.dtype in _HALF else pooled  # where no step widens it
        vectors = {self._input: wide}
        for step, module in zip(self._steps, self._modules_of_steps, strict=True):
            vectors[step.target] = module(vectors[step.source])
        return vectors[self._output]


class _Dense(torch.nn.Module):
    def __init__(self, step: Step) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(step.inputs, step.outputs, bias=step.bias)
        self._activation = _activation(step)
        self._adds_input = step.residual == "input"
        self.residual: torch.nn.Linear | None = None
        if step.residual == "linear":
            self.residual = torch.nn.Linear(step.inputs, step.outputs, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self._activation(self.linear(x))
        if self.residual is not None:
            y = y + self.residual(x)
        return y + x if self._adds_input else y


class _LayerNorm(torch.nn.Module):
    def __init__(self, step: Step) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(step.outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(x)
        return y


class _Normalize(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(x, p=2, dim=-1)


def _activation(step: Step) -> torch.nn.Module:
    cls = getattr(torch.nn, step.activation, None)
    try:
        if isinstance(cls, type) and issubclass(cls, torch.nn.Module):
            return cls()
    except TypeError:
        pass  # it needs arguments, which the files do not say
    raise ConfigError(
        f"the module {step.folder} has the activation {step.activation!r}, and torch.nn has no "
        "class of that name that needs no arguments"
    )


def _load(step: Step, folder: Path) -> torch.nn.Module:
    if step.kind == "Normalize":
        return _Normalize()
    module: torch.nn.Module = _Dense(step) if step.kind == "Dense" else _LayerNorm(step)
    with safe_open(folder / step.folder / WEIGHTS, framework="pt") as weights:
        named = {name: weights.get_tensor(name).float() for name in module.state_dict()}
    module.load_state_dict(named)
    return module.requires_grad_(requires_grad=False)
