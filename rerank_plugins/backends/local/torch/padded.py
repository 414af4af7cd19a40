"""Padded batches: rows of one length, which every transformers model can read."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch

from rerank_plugins.backends.local.checkpoint import Checkpoint
from rerank_plugins.backends.local.tokenizer import Pairs
from rerank_plugins.backends.local.torch.heads import (
    find_dtype,
    find_pooling,
    mark_overflow,
    scores,
)
from rerank_plugins.backends.local.torch.last_layer import LastLayer
from rerank_plugins.backends.local.torch.self_check import find_difference, make_check_pairs

__all__ = ["PaddedForward"]


class PaddedForward:
    """Runs the model on a rectangle of tokens and a mask.

    Args:
        model: the transformers model.
        checkpoint: the files of the model.
        save: compute only the pooled rows of the last layer if the scores stay the same.
    """

    name = "padded"
    padded = True
    shares = False

    def __init__(self, model: Any, checkpoint: Checkpoint, *, save: bool = False) -> None:
        self.model = model
        self.dtype = find_dtype(model)
        self._pad = model.config.get_text_config().pad_token_id
        self._takes_types = (
            checkpoint.uses_types
            and "token_type_ids" in inspect.signature(model.forward).parameters
        )
        self._pooling = find_pooling(model, checkpoint)
        self._answers = checkpoint.answer_tokens is not None
        self.max_pairs = 1 if self._pad is None and not self._answers else None
        """The most pairs in a batch; a model without a padding token reads one at a time."""
        self._last: LastLayer | None = None
        self.facts: dict[str, object] = {}
        """The optimisations in use, or why they are not."""
        if save:
            self._save_last_layer(checkpoint)

    def __call__(self, pairs: Pairs) -> torch.Tensor:
        """Return the logits of the pairs, [n], on the model's device, without waiting for them."""
        lengths = pairs.lengths
        filled = np.arange(lengths.max()) < lengths[:, None]
        rows = np.zeros((3, *filled.shape), dtype=np.int64)
        rows[0] = self._pad or 0
        rows[0][filled] = pairs.ids
        rows[1] = filled
        rows[2][filled] = pairs.types
        on_host = torch.from_numpy(rows)
        if self.model.device.type == "cuda":
            on_host = on_host.pin_memory()
        ids, mask, types = on_host.to(self.model.device, non_blocking=True)
        extra = {"token_type_ids": types} if self._takes_types else {}
        last = self._pooling == "last"
        places = mask.sum(1) - 1 if last else torch.zeros_like(mask[:, 0])
        if self._last is not None:
            self._last.select = lambda states: _rows(states, places)
        backbone_states: list[torch.Tensor] = []
        backbone = getattr(self.model, self.model.base_model_prefix)
        watch = backbone.register_forward_hook(lambda *call: backbone_states.append(call[2][0]))
        try:
            logits: torch.Tensor = self.model(input_ids=ids, attention_mask=mask, **extra).logits
        finally:
            watch.remove()
            if self._last is not None:
                self._last.select = None
        if self._answers:
            logits = (logits if self._last is not None else _rows(logits, places))[:, 0]
        values = scores(logits)
        if backbone_states[0].dtype != torch.float16:
            return values
        states = backbone_states[0]
        if self._pooling != "mean" and self._last is None:
            states = _rows(states, places)
        real = mask if self._pooling == "mean" else torch.ones_like(mask[:, :1])
        return mark_overflow(values, states, real.bool())

    def _save_last_layer(self, checkpoint: Checkpoint) -> None:
        if self._pooling == "mean":
            self.facts["last_layer"] = "the head reads all rows"
            return
        pairs = make_check_pairs(self.model.config, checkpoint)
        try:
            with torch.inference_mode():
                expected = self(pairs)
                self._last = LastLayer(getattr(self.model, self.model.base_model_prefix))
                reason = find_difference(self(pairs), expected, self.dtype)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as exc:
            reason = str(exc)
        if reason is not None and self._last is not None:
            self._last.remove()
            self._last = None
        self.facts["last_layer"] = reason or "pooled rows only"


def _rows(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return one row of each sequence, [n, 1, width]."""
    return states.take_along_dim(places[:, None, None], dim=1)
