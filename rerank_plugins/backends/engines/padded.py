"""Scoring batches the way every transformers model understands: rows padded to one length."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch

from rerank_plugins.backends.engines.checkpoint import Checkpoint
from rerank_plugins.backends.engines.tokenize import Pairs

__all__ = ["PaddedPath"]


class PaddedPath:
    """Calls the model on a rectangle of tokens and a mask."""

    name = "padded"
    padded = True

    def __init__(self, model: Any, checkpoint: Checkpoint) -> None:
        self.model = model
        self._pad = model.config.get_text_config().pad_token_id
        self._takes_types = (
            checkpoint.uses_types
            and "token_type_ids" in inspect.signature(model.forward).parameters
        )
        self.most = 1 if self._pad is None else None
        """Most pairs in a batch; a model without a padding token reads one at a time."""

    def __call__(self, pairs: Pairs) -> torch.Tensor:
        """Return the logits of the pairs, [n], on the model's device; waits for nothing."""
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
        logits: torch.Tensor = self.model(input_ids=ids, attention_mask=mask, **extra).logits
        return logits[:, 0]
