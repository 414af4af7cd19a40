"""The last layer of a transformer, computed only for the rows that the score is read from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

__all__ = ["LastLayer", "Select"]

Select: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""From [batch, tokens, width] to the wanted rows, [batch, wanted, width]."""

_GATHER_BEFORE = {
    frozenset({"attention", "intermediate", "output"}): "attention.output",
    frozenset({"attention", "ffn", "output_layer_norm", "sa_layer_norm"}): "sa_layer_norm",
    frozenset(
        {"mlp", "post_attention_dropout", "post_attention_layernorm", "post_mlp_dropout"}
        | {"post_mlp_layernorm", "self_attn"}
    ): "post_attention_layernorm",
}
"""Parts of a layer → the part up to which all rows are needed, where norms follow additions."""

_NORMS_FIRST = {
    frozenset(parts): parts
    for parts in (
        ("attn_norm", "attn", "mlp_norm", "mlp"),
        ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp"),
    )
}
"""Parts of a layer → the same in their order, where norms come before attention and MLP."""


class LastLayer:
    """Makes a backbone's last layer drop rows right after its attention, when `select` is set.

    Other rows don't reach the score, so it stays the same. What a layer looks like is told by
    the names of its parts; whether that was right has to be checked by comparing scores.

    Raises:
        ValueError: the layer is of no known form.
    """

    def __init__(self, backbone: torch.nn.Module) -> None:
        self.select: Select | None = None
        """What to keep; None: every row."""
        stacks = [part for part in backbone.modules() if isinstance(part, torch.nn.ModuleList)]
        if not stacks:
            raise ValueError("the model has no stack of layers")
        layer = max(stacks, key=len)[-1]
        parts = frozenset(name for name, _ in layer.named_children())
        if parts in _GATHER_BEFORE:
            self._changed: Any = layer.get_submodule(_GATHER_BEFORE[parts])
            forward: Any = self._gather
        elif parts in _NORMS_FIRST:
            self._changed = layer
            self._parts = [getattr(layer, name) for name in _NORMS_FIRST[parts]]
            forward = self._norms_first
        else:
            raise ValueError(f"{type(layer).__name__} is no layer of a known form")
        self._whole = self._changed.forward
        self._changed.forward = forward  # a hook would be lost where torch compiles the model

    def remove(self) -> None:
        """Leave the layer as it was."""
        del self._changed.forward

    def _gather(self, *states: torch.Tensor) -> Any:
        if self.select is None:
            return self._whole(*states)
        return self._whole(*[self.select(state) for state in states])

    def _norms_first(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.select is None:
            return self._whole(hidden_states, *args, **kwargs)
        attention_norm, attention, mlp_norm, mlp = self._parts
        mixed = attention(attention_norm(hidden_states), *args, **kwargs)[0]
        states = self.select(hidden_states) + self.select(mixed)
        return states + mlp(mlp_norm(states))
