"""Padded batches: rows of one length, for models whose scores padding leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rerank_plugins.backends.local.checkpoint import Checkpoint
from rerank_plugins.backends.local.out_of_memory import is_out_of_memory
from rerank_plugins.backends.local.tokenizer import Pairs
from rerank_plugins.backends.local.torch.heads import (
    find_dtype,
    find_pooling,
    mark_overflow,
    scores,
    takes_types,
)
from rerank_plugins.backends.local.torch.last_layer import LastLayer
from rerank_plugins.backends.local.torch.self_check import (
    CHECK_ERRORS,
    find_difference,
    make_check_pairs,
)

__all__ = ["PaddedForward"]


class PaddedForward:
    """Runs the model on a rectangle of tokens and a mask.

    Args:
        model: the transformers model.
        checkpoint: the files of the model.
        check: score random pairs together and one by one. A model whose scores differ (it
            convolves over the padding, or mixes all tokens) then gets one pair at a time, and
            only the pooled rows of the last layer are computed if that leaves the scores alone.
    """

    name = "padded"
    padded = True
    shares = False

    def __init__(self, model: Any, checkpoint: Checkpoint, *, check: bool = False) -> None:
        self.model = model
        self.dtype = find_dtype(model)
        self._label = checkpoint.label
        self._vectors = checkpoint.bi_encoder is not None
        self._pad = model.config.get_text_config().pad_token_id
        self._takes_types = checkpoint.uses_types and takes_types(model)
        self._pooling = find_pooling(model, checkpoint)
        self._answers = checkpoint.answer_tokens is not None
        self.max_pairs: int | None = 1 if self._pad is None and not self._answers else None
        """The most pairs in a batch; a model without a padding token reads one at a time."""
        self._last: LastLayer | None = None
        self.facts: dict[str, object] = {}
        """The optimisations in use, or why they are not."""
        if check:
            self._check(checkpoint)

    def __call__(self, pairs: Pairs) -> torch.Tensor:
        """Return the logits of the pairs, [n], on the model's device, without waiting for them.

        Of a bi-encoder, return the vectors of the texts, or of their compared tokens, [n, width].
        """
        lengths = pairs.lengths
        filled = np.arange(lengths.max()) < lengths[:, None]
        rows = np.zeros((3, *filled.shape), dtype=np.int64)
        rows[0] = self._pad or 0
        rows[0][filled] = pairs.ids
        rows[1] = filled
        if pairs.attended is not None:
            rows[1] &= np.arange(lengths.max()) < pairs.attended[:, None]
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
        if self._pooling == "tokens":
            return self._compared(pairs, filled, logits, backbone_states[0])
        if self._answers:
            logits = (logits if self._last is not None else _rows(logits, places))[:, 0]
        values = scores(logits, self._label, vectors=self._vectors)
        if backbone_states[0].dtype != torch.float16:
            return values
        states = backbone_states[0]
        if self._pooling != "mean" and self._last is None:
            states = _rows(states, places)
        real = mask if self._pooling == "mean" else torch.ones_like(mask[:, :1])
        return mark_overflow(values, states, real.bool())

    def _compared(
        self, pairs: Pairs, filled: NDArray[np.bool_], vectors: torch.Tensor, states: torch.Tensor
    ) -> torch.Tensor:
        """Return the vectors of the tokens that are compared, text after text."""
        places = np.flatnonzero(filled)[pairs.compared_rows]
        chosen = torch.from_numpy(places).to(vectors.device, non_blocking=True)
        values = vectors.flatten(0, 1).index_select(0, chosen)
        if states.dtype != torch.float16:
            return values
        states = states.flatten(0, 1).index_select(0, chosen)[:, None]
        return mark_overflow(values, states, torch.ones_like(states[:, :, 0], dtype=torch.bool))

    def one_by_one(self, pairs: Pairs) -> torch.Tensor:
        """Return the logits of the pairs, [n], each scored alone: what batches have to equal."""
        return torch.cat([self(pairs.take([index])) for index in range(len(pairs))])

    def _check(self, checkpoint: Checkpoint) -> None:
        pairs = make_check_pairs(self.model.config, checkpoint)
        with torch.inference_mode():
            try:
                expected = self.one_by_one(pairs)
            except CHECK_ERRORS as exc:
                if is_out_of_memory(exc):
                    raise
                self.max_pairs = 1  # random tokens are not for this model: nothing can be checked
                self.facts["last_layer"] = self.facts["batches"] = f"not checked: {exc}"
                return
            if self.max_pairs is None and bool(torch.isfinite(expected).all()):
                reason = self._difference(self, pairs, expected)
                if reason is not None:
                    self.max_pairs = 1
                    self.facts["batches"] = f"one pair at a time: {reason}"
            self._save_last_layer(pairs, expected)

    def _save_last_layer(self, pairs: Pairs, expected: torch.Tensor) -> None:
        if self._pooling in ("mean", "tokens"):
            self.facts["last_layer"] = "the head reads all rows"
            return
        reason: str | None
        try:
            self._last = LastLayer(getattr(self.model, self.model.base_model_prefix))
        except (AttributeError, ValueError) as exc:
            reason = str(exc)
        else:
            reason = self._difference(self.one_by_one, pairs, expected)
            if reason is None and self.max_pairs is None:
                reason = self._difference(self, pairs, expected)
        if reason is not None and self._last is not None:
            self._last.remove()
            self._last = None
        self.facts["last_layer"] = reason or "pooled rows only"

    def _difference(
        self, score: Callable[[Pairs], torch.Tensor], pairs: Pairs, expected: torch.Tensor
    ) -> str | None:
        """Return how scores differ from the expected ones, or fail; None if they are equal."""
        try:
            return find_difference(score(pairs), expected, self.dtype)
        except CHECK_ERRORS as exc:
            if is_out_of_memory(exc):
                raise
            return f"{type(exc).__name__}: {exc}"


def _rows(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return one row of each sequence, [n, 1, width]."""
    return states.take_along_dim(places[:, None, None], dim=1)
