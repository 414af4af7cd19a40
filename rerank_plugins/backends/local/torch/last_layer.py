"""The last layer of a transformer, computed only for the rows that the head reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

__all__ = ["LastLayer", "Select"]

Select: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""From [batch, tokens, width] to the rows that the head reads, [batch, rows, width]."""

_POST_NORM = {
    frozenset({"attention", "intermediate", "output"}): "attention.output",
    frozenset({"attention", "ffn", "output_layer_norm", "sa_layer_norm"}): "sa_layer_norm",
    frozenset(
        {"mlp", "post_attention_dropout", "post_attention_layernorm", "post_mlp_dropout"}
        | {"post_mlp_layernorm", "self_attn"}
    ): "post_attention_layernorm",
}
"""Parts of a post-norm layer → the part up to which all rows are needed."""

_PRE_NORM = {
    frozenset(parts): parts
    for parts in (
        ("attn_norm", "attn", "mlp_norm", "mlp"),
        ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp"),
    )
}
"""Parts of a pre-norm layer → the same parts in the order they run."""


class LastLayer:
    """Makes a backbone's last layer drop rows right after its attention, when `select` is set.

    Other rows don't reach the score. The form of a layer is inferred from the names of its parts,
    so the caller has to check that the scores stay the same.

    Raises:
        ValueError: the layer's form is unknown.
    """

    def __init__(self, backbone: torch.nn.Module) -> None:
        self.select: Select | None = None
        """Selects the rows to keep; None keeps all."""
        stacks = [part for part in backbone.modules() if isinstance(part, torch.nn.ModuleList)]
        if not stacks:
            raise ValueError("the model has no stack of layers")
        layer = max(stacks, key=len)[-1]
        parts = frozenset(name for name, _ in layer.named_children())
        if parts in _POST_NORM:
            self._changed: Any = layer.get_submodule(_POST_NORM[parts])
            forward: Any = self._run_post_norm
        elif parts in _PRE_NORM:
            self._changed = layer
            self._parts = [getattr(layer, name) for name in _PRE_NORM[parts]]
            forward = self._run_pre_norm
        else:
            raise ValueError(f"{type(layer).__name__} is a layer of unknown form")
        self._whole = self._changed.forward
        self._changed.forward = forward  # hooks are lost when torch compiles the model

    def remove(self) -> None:
        """Restore the layer."""
        del self._changed.forward

    def _run_post_norm(self, *states: torch.Tensor) -> Any:
        if self.select is None:
            return self._whole(*states)
        return self._whole(*[self.select(state) for state in states])

    def _run_pre_norm(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.select is None:
            return self._whole(hidden_states, *args, **kwargs)
        attention_norm, attention, mlp_norm, mlp = self._parts
        mixed = attention(attention_norm(hidden_states), *args, **kwargs)[0]
        states = self.select(hidden_states) + self.select(mixed)
        return states + mlp(mlp_norm(states))
