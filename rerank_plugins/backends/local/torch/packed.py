"""Scoring without padding: all pairs of a batch in one row, on unchanged transformers models."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from rerank_plugins.backends.local.checkpoint import Checkpoint
from rerank_plugins.backends.local.out_of_memory import is_out_of_memory
from rerank_plugins.backends.local.tokenizer import Pairs, Pooling
from rerank_plugins.backends.local.torch.attention import varlen_attention
from rerank_plugins.backends.local.torch.heads import (
    find_dtype,
    find_pooling,
    mark_overflow,
    scores,
)
from rerank_plugins.backends.local.torch.last_layer import LastLayer
from rerank_plugins.backends.local.torch.packing import Pack, pack, pack_shared
from rerank_plugins.backends.local.torch.padded import PaddedForward
from rerank_plugins.backends.local.torch.self_check import (
    CHECK_ERRORS,
    find_difference,
    make_check_pairs,
)

__all__ = ["CannotPack", "PackedForward"]

_ATTENTION = "rerank_packed"  # without "flash": transformers treats such names in its own way


class CannotPack(Exception):
    """This model can't be scored without padding."""


class PackedForward:
    """Runs the backbone on one row of tokens, and the model's own head on the pooled rows.

    An attention function that knows where pairs start lets each pair attend to itself alone. The
    head runs in a copy of the model whose backbone returns the pooled states, so every model keeps
    its own head. Two optimisations apply if a self-check finds the same scores: the last layer
    computes pooled rows only, and the common prefix of a query's prompts is computed once.

    Raises:
        CannotPack: the model does not use transformers' attention interface, or the scores differ
            from those of pairs that are scored one by one.
    """

    name = "packed"
    padded = False
    max_pairs = None

    def __init__(self, model: Any, checkpoint: Checkpoint) -> None:
        self.model = model
        self.dtype = find_dtype(model)
        self._label = checkpoint.label
        self._vectors = checkpoint.bi_encoder is not None
        if not getattr(model, "_supports_attention_backend", False):
            name = type(getattr(model, model.base_model_prefix, model)).__name__
            raise CannotPack(f"{name} does not use the attention interface")
        self._backbone = getattr(model, model.base_model_prefix)
        self._takes_types = "token_type_ids" in inspect.signature(self._backbone.forward).parameters
        self.pooling: Pooling = find_pooling(model, checkpoint)
        self._first_position = _first_position(model)
        self._pad = model.config.get_text_config().pad_token_id
        self._pooled = _Pooled(getattr(self._backbone, "pooler", None))
        self._head = copy.copy(model)
        self._head._modules = {**model._modules, model.base_model_prefix: self._pooled}  # noqa: SLF001 - torch's own way to share all but one part
        if self._pad is None:  # such a head reads one row at a time, unless it knows some padding
            self._head.config = copy.copy(model.config)
            self._head.config.get_text_config().pad_token_id = 0
        self._last: LastLayer | None = None
        self._masked = _MaskedForward(model, checkpoint)
        self.shares = False
        """Whether the common prefix of a group of pairs is computed once."""
        self.facts: dict[str, object] = {}
        """The optimisations in use, or why they are not."""
        self._check(checkpoint)

    def __call__(self, pairs: Pairs) -> torch.Tensor:
        """Return the logits of the pairs, [n], on the model's device, without waiting for them.

        Of a bi-encoder, return the vectors of the texts, or of their compared tokens, [n, width].
        """
        if pairs.attended is not None:
            return self._masked(pairs)
        packed = self.pack(pairs)
        if self.model.device.type != "cuda":
            packed = packed.filled()
        return self.run(self._on_device(packed), packed.longest, packed.longest_key)

    def pack(self, pairs: Pairs) -> Pack:
        """Lay out pairs for `run`."""
        shared = pack_shared(pairs) if self.shares else None
        return shared or pack(
            pairs, pooling=self.pooling, first_position=self._first_position, pad=self._pad
        )

    def run(
        self, arrays: Sequence[torch.Tensor], longest: int, longest_key: int = 0
    ) -> torch.Tensor:
        """Return one logit (or vector) per row of the pack; works on meta tensors and in graphs.

        Args:
            arrays: those of a `Pack` on the model's device, int32.
            longest: at least the length of the longest sequence.
            longest_key: at least the most tokens a sequence reads, where that is more.
        """
        ids, positions, types, offsets, rows, key_offsets, key_rows = arrays
        extra: dict[str, Any] = {"token_type_ids": types[None]} if self._takes_types else {}
        if longest_key:
            extra["packed_key_rows"] = key_rows
        if self._last is not None:
            self._last.select = lambda states: states.index_select(1, rows)
        try:
            states = self.backbone(
                input_ids=ids[None],
                position_ids=positions[None],
                attention_mask=None,
                cu_seq_lens_q=offsets,
                cu_seq_lens_k=key_offsets if longest_key else offsets,
                max_length_q=longest,
                max_length_k=longest_key or longest,
                **extra,
            )[0][0]
        finally:
            if self._last is not None:
                self._last.select = None
        if self._last is None:
            states = self._pool(states, offsets, rows)
        self._pooled.states = states[:, None]
        no_ids = torch.full((len(states), 1), -1, device=states.device)
        logits: torch.Tensor = self._head(input_ids=no_ids, attention_mask=None).logits
        self._pooled.states = None
        flat = logits.flatten(1) if logits.ndim > 1 else logits[:, None]  # maybe there is no row
        values = scores(flat, self._label, vectors=self._vectors)
        if states.dtype != torch.float16:
            return values
        return mark_overflow(values, states[:, None], torch.ones_like(no_ids, dtype=torch.bool))

    @property
    def backbone(self) -> Any:
        """The model without its head; may be replaced by a compiled one."""
        return self._backbone

    @backbone.setter
    def backbone(self, backbone: Any) -> None:
        self._backbone = backbone

    def _on_device(self, packed: Pack) -> tuple[torch.Tensor, ...]:
        """Copy all arrays in one go."""
        parts = packed.arrays
        on_host = torch.from_numpy(np.concatenate(parts, dtype=np.int32, casting="same_kind"))
        if self.model.device.type == "cuda":
            on_host = on_host.pin_memory()
        moved = on_host.to(self.model.device, non_blocking=True)
        return torch.split(moved, [len(part) for part in parts])

    def _pool(
        self, states: torch.Tensor, offsets: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        """Return one row per pair, [n, width]: its first, its last, or their mean."""
        if self.pooling != "mean":
            return states.index_select(0, rows)
        wide = states if states.dtype == torch.float64 else states.float()
        # Tokens after the last sequence are summed in an extra row.
        places = torch.arange(len(states), dtype=offsets.dtype, device=states.device)
        owner = torch.bucketize(places, offsets[1:], right=True)
        sums = wide.new_zeros(len(offsets), states.shape[1]).index_add_(0, owner, wide)[:-1]
        return (sums / offsets.diff()[:, None]).to(states.dtype)

    def _check(self, checkpoint: Checkpoint) -> None:
        """Compare with scores one by one, of different lengths; keep what gives the same."""
        pairs = make_check_pairs(self.model.config, checkpoint)
        before = self.model.config._attn_implementation  # noqa: SLF001 - it has no public reader
        with torch.inference_mode():
            try:
                expected = PaddedForward(self.model, checkpoint).one_by_one(pairs)
            except CHECK_ERRORS as exc:
                if is_out_of_memory(exc):
                    raise
                raise CannotPack(f"not checked: {exc}") from exc
            AttentionInterface.register(_ATTENTION, _attention)
            self.model.set_attn_implementation(_ATTENTION)
            reason = self._differs(pairs, expected)
            if reason is not None:
                self.model.set_attn_implementation(before)
                raise CannotPack(reason)
            self._save_last_layer(pairs, expected)
            self._save_shared(pairs, expected)

    def _differs(self, pairs: Pairs, expected: torch.Tensor) -> str | None:
        """Return how the scores of pairs differ from the expected ones; None if they don't."""
        try:
            return find_difference(self(pairs), expected, self.dtype)
        except CHECK_ERRORS as exc:
            return f"{type(exc).__name__}: {exc}"

    def _save_last_layer(self, pairs: Pairs, expected: torch.Tensor) -> None:
        reason: str | None = "the head reads all rows"
        if self.pooling not in ("mean", "tokens"):
            try:
                self._last = LastLayer(self._backbone)
            except ValueError as exc:
                reason = str(exc)
            else:
                reason = self._differs(pairs, expected)
        if reason is not None and self._last is not None:
            self._last.remove()
            self._last = None
        self.facts["last_layer"] = reason or "pooled rows only"

    def _save_shared(self, pairs: Pairs, expected: torch.Tensor) -> None:
        if self.pooling != "last":
            return
        self.shares = True
        reason = self._differs(pairs, expected)
        self.shares = reason is None
        self.facts["shared_prefix"] = reason or "computed once per query"


class _MaskedForward:
    """Runs texts of which some tokens are not seen by the others, in the model's own attention.

    These are queries that are filled up: few, short, and of one length.
    """

    def __init__(self, model: Any, checkpoint: Checkpoint) -> None:
        self._model = model
        self._implementation = model.config._attn_implementation  # noqa: SLF001 - no public reader
        self._forward = PaddedForward(model, checkpoint)

    def __call__(self, pairs: Pairs) -> torch.Tensor:
        packed = self._model.config._attn_implementation  # noqa: SLF001 - no public reader
        self._model.set_attn_implementation(self._implementation)
        try:
            return self._forward(pairs)
        finally:
            self._model.set_attn_implementation(packed)


class _Pooled(torch.nn.Module):
    """Stands in for the backbone, and returns the states that `states` holds."""

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
    cu_seq_lens_k: torch.Tensor | None = None,
    max_length_q: int | None = None,
    max_length_k: int = 0,
    packed_key_rows: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within pairs; called by transformers with [1, heads, tokens, width].

    Raises:
        RuntimeError: the model did not pass on where pairs start, or needs what is not supported
            here. Attending across pairs would give wrong scores silently.
    """
    unsupported = [
        name for name in ("position_bias", "s_aux", "softcap") if others.get(name) is not None
    ]
    if cu_seq_lens_q is None or max_length_q is None:
        raise RuntimeError("the boundaries of the pairs did not reach the attention")
    if attention_mask is not None or len(query) != 1 or dropout or unsupported:
        raise RuntimeError(f"packed attention supports no mask, batch, dropout or {unsupported}")
    window = (-1, -1)
    if sliding_window is not None:  # transformers counts the token itself
        window = (sliding_window - 1, sliding_window - 1)
    if getattr(module, "is_causal", False) if is_causal is None else is_causal:
        window = (window[0], 0)
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    if packed_key_rows is not None:
        k, v = k.index_select(0, packed_key_rows), v.index_select(0, packed_key_rows)
    mixed = varlen_attention(
        q,
        k,
        v,
        cu_seq_lens_q,
        max_length_q,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=window,
        key_offsets=None if packed_key_rows is None else cu_seq_lens_k,
        longest_key=max_length_k,
    )
    return mixed[None], None


def _first_position(model: Any) -> int | None:
    """Return where positions start, for models that place them behind the padding index."""
    for module in model.modules():
        padding = getattr(module, "padding_idx", None)
        positions = getattr(module, "position_embeddings", None)
        if isinstance(padding, int) and isinstance(positions, torch.nn.Embedding):
            return padding + 1
    return None
