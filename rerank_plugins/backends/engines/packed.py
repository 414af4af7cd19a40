"""Scoring without padding: all pairs of a batch in one row, on unchanged transformers models."""

from __future__ import annotations

import copy
import inspect
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AttentionInterface
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from rerank_plugins.backends.engines.checkpoint import Checkpoint
from rerank_plugins.backends.engines.padded import PaddedPath
from rerank_plugins.backends.engines.probe import probe
from rerank_plugins.backends.engines.tokenize import Pairs
from rerank_plugins.backends.engines.varlen import varlen_attention

__all__ = ["CannotPack", "PackedPath"]

_ATTENTION = "rerank_packed"  # without "flash": transformers treats such names in its own way
_LENGTH_STEP = 64
_TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-4}
_HALF_TOLERANCE = 5e-2


class CannotPack(Exception):
    """This model can't be scored without padding."""


class PackedPath:
    """Calls the backbone on one row of tokens, and the model's own head on the pooled rows.

    Each pair attends to itself alone, through an attention function that knows where pairs
    start. The head runs in a copy of the model whose backbone is replaced by the pooled states,
    so that every model keeps its own.

    Raises:
        CannotPack: the model does not use transformers' attention interface, or scores made
            this way differ from padded ones.
    """

    name = "packed"
    padded = False
    most = None

    def __init__(self, model: Any, checkpoint: Checkpoint) -> None:
        self.model = model
        if not getattr(type(model), "_supports_attention_backend", False):
            raise CannotPack(f"{type(model).__name__} does not use the attention interface")
        self._backbone = getattr(model, model.base_model_prefix)
        self._takes_types = "token_type_ids" in inspect.signature(self._backbone.forward).parameters
        self._pooling = _pooling(model)
        self._first_position = _first_position(model)
        self._pad = model.config.get_text_config().pad_token_id
        self._pooled = _Pooled(getattr(self._backbone, "pooler", None))
        self._head = copy.copy(model)
        self._head._modules = {**model._modules, model.base_model_prefix: self._pooled}  # noqa: SLF001 - torch's own way to share all but one part
        self._check(checkpoint)

    def __call__(self, pairs: Pairs) -> torch.Tensor:
        """Return the logits of the pairs, [n], on the model's device; waits for nothing."""
        ids, positions, types, offsets = self._on_device(pairs)
        extra: dict[str, Any] = {"token_type_ids": types[None]} if self._takes_types else {}
        if self._pooling == "last":
            extra["use_cache"] = False
        longest = -(-int(pairs.lengths.max()) // _LENGTH_STEP) * _LENGTH_STEP
        states = self._backbone(
            input_ids=ids[None],
            position_ids=positions[None],
            attention_mask=None,
            cu_seq_lens_q=offsets,
            cu_seq_lens_k=offsets,
            max_length_q=longest,
            max_length_k=longest,
            **extra,
        )[0][0]
        self._pooled.states = self._pool(states, offsets)[:, None]
        no_ids = torch.full((len(pairs), 1), -1, device=states.device)
        logits: torch.Tensor = self._head(input_ids=no_ids, attention_mask=None).logits
        self._pooled.states = None
        return logits[:, 0]

    def _on_device(self, pairs: Pairs) -> tuple[torch.Tensor, ...]:
        """Copy ids, positions, types and offsets in one go."""
        parts = (pairs.ids, self._positions(pairs), pairs.types, pairs.offsets)
        on_host = torch.from_numpy(np.concatenate(parts, dtype=np.int32, casting="same_kind"))
        if self.model.device.type == "cuda":
            on_host = on_host.pin_memory()
        moved = on_host.to(self.model.device, non_blocking=True)
        return torch.split(moved, [len(part) for part in parts])

    def _positions(self, pairs: Pairs) -> NDArray[np.int64]:
        starts = np.repeat(pairs.offsets[:-1], pairs.lengths)
        if self._first_position is None:
            return np.arange(len(pairs.ids)) - starts
        # RoBERTa counts what is no padding token, even where one was typed in a text
        real = pairs.ids != self._pad
        counted = np.concatenate([[0], np.cumsum(real)])
        positions: NDArray[np.int64] = counted[1:] - counted[starts]
        return np.asarray(positions * real + (self._first_position - 1))

    def _pool(self, states: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Return one row per pair, [n, width]: its first, its last, or their mean."""
        if self._pooling == "first":
            return states.index_select(0, offsets[:-1])
        if self._pooling == "last":
            return states.index_select(0, offsets[1:] - 1)
        lengths = offsets.diff()
        owner = torch.repeat_interleave(lengths, output_size=len(states))
        wide = states if states.dtype == torch.float64 else states.float()
        sums = wide.new_zeros(len(lengths), states.shape[1]).index_add_(0, owner, wide)
        return (sums / lengths[:, None]).to(states.dtype)

    def _check(self, checkpoint: Checkpoint) -> None:
        """Compare with padded scores, on pairs of unlike lengths, before any real use."""
        pairs = probe(self.model.config, checkpoint)
        before = self.model.config._attn_implementation  # noqa: SLF001 - it has no public reader
        with torch.inference_mode():
            expected = PaddedPath(self.model, checkpoint)(pairs).double()
            AttentionInterface.register(_ATTENTION, _attention)
            self.model.set_attn_implementation(_ATTENTION)
            try:
                error = (self(pairs).double() - expected).abs().max().item()
            except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as exc:
                error, reason = float("nan"), f"{type(exc).__name__}: {exc}"
            else:
                reason = f"packed scores differ from padded ones by {error:.1e}"
        allowed = _TOLERANCES.get(self.model.dtype, _HALF_TOLERANCE)
        if not error <= allowed * max(1.0, expected.abs().max().item()):
            self.model.set_attn_implementation(before)
            raise CannotPack(reason)


class _Pooled(torch.nn.Module):
    """Stands where the backbone was, and returns the states that it was given."""

    def __init__(self, pooler: torch.nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler
        self.states: torch.Tensor | None = None

    def forward(self, *_: object, **__: object) -> BaseModelOutputWithPoolingAndCrossAttentions:
        pooled = None if self.pooler is None else self.pooler(self.states)
        return BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=self.states, pooler_output=pooled
        )


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within pairs; called by transformers with [1, heads, tokens, width].

    Raises:
        RuntimeError: the model did not pass on where pairs start, or wants what is not done
            here. Attending across pairs would give wrong scores without a word.
    """
    wanted = [
        name for name in ("position_bias", "s_aux", "softcap") if others.get(name) is not None
    ]
    if cu_seq_lens_q is None or max_length_q is None:
        raise RuntimeError("the boundaries of the pairs did not reach the attention")
    if attention_mask is not None or len(query) != 1 or dropout or wanted:
        raise RuntimeError(f"packed attention does no mask, batch, dropout or {wanted}")
    window = (-1, -1)
    if sliding_window is not None:  # transformers counts the token itself
        window = (sliding_window - 1, sliding_window - 1)
    if getattr(module, "is_causal", False) if is_causal is None else is_causal:
        window = (window[0], 0)
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    mixed = varlen_attention(
        q,
        k,
        v,
        cu_seq_lens_q,
        max_length_q,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=window,
    )
    return mixed[None], None


def _pooling(model: Any) -> Literal["first", "last", "mean"]:
    """Tell which rows the model's head reads; `_check` notices a wrong guess."""
    if hasattr(model, "score"):
        return "last"
    return "mean" if getattr(model.config, "classifier_pooling", None) == "mean" else "first"


def _first_position(model: Any) -> int | None:
    """Return where positions start, for models that place them behind the padding index."""
    for module in model.modules():
        padding = getattr(module, "padding_idx", None)
        positions = getattr(module, "position_embeddings", None)
        if isinstance(padding, int) and isinstance(positions, torch.nn.Embedding):
            return padding + 1
    return None
